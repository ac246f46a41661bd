package org.etpipeline.core

/**
 * Which tokens a program's context holds, and what of a new text need not be fed.
 *
 * @param length of the context in tokens.
 * @param reach how many tokens the program can go back from the last position that it wrote.
 */
class Context(private val length: Int, private val reach: Int) {
    /** What was said; of the last, those in [unfed] have not been fed to the program. */
    val tokens = Tokens()

    private var fed = 0
    private var farthest = 0 // the end of what was written since position 0

    /** Places in [tokens] that are to be fed. */
    val unfed: IntRange get() = fed until tokens.size

    /** Whether what is [unfed] does not fit any more. */
    val isFull: Boolean get() = tokens.size > length

    /**
     * Puts a prompt behind what was said, or in its place.
     *
     * @param startsOver whether [ids] begin a text; then what the context has in common with it is kept.
     * @param room tokens that must be left behind the prompt.
     * @return how many of [ids] need not be fed.
     * @throws EngineException [Problem.PromptTooLong]; nothing has changed then.
     */
    fun take(ids: IntArray, startsOver: Boolean, room: Int = 0): Int {
        val size = ids.size + if (startsOver) 0 else tokens.size
        if (size > length - room || size == 0) throw EngineException(Problem.PromptTooLong)
        if (!startsOver) {
            tokens += ids
            return 0
        }
        val kept = common(ids)
        tokens.cut(0)
        tokens += ids
        fed = kept
        if (kept == 0) farthest = 0 // from there nothing of before is seen
        return kept
    }

    /** Says that a token was chosen; it is fed later. */
    fun add(token: Int) {
        tokens += token
    }

    /** Says that the first [count] of [unfed] were fed. */
    fun fed(count: Int) {
        fed += count
        farthest = maxOf(farthest, fed)
    }

    fun clear() {
        tokens.cut(0)
        forgotten()
    }

    /** Says that the program has forgotten all: what was said is fed again. */
    fun forgotten() {
        fed = 0
        farthest = 0
    }

    /** The last token is always fed: what comes after it is asked for. */
    private fun common(ids: IntArray): Int {
        val same = minOf(tokens.common(ids), fed, ids.size - 1)
        return if (farthest - same <= reach) same else 0
    }
}

/**
 * How many tokens [program] can go back: all of them if it keeps keys and values of each; of a sliding window, a ring,
 * as many as are written in one call, which the ring is longer than the window; none if it mixes tokens into a state,
 * or its manifest is of a version that does not say what it remembers.
 */
fun reachOf(program: Program, memory: Memory): Int = when {
    !program.goesBack || memory.states.isEmpty() -> 0
    "ring" in memory.states -> program.prefillChunk - 1
    else -> Int.MAX_VALUE
}
