package org.etpipeline.core.grammar

/**
 * How far a terminal of the grammar has been read. Two positions are equal if they are the same object.
 *
 * A counted position is its [uncounted] one with bounds to its length, so that one walk over the vocabulary does for
 * all counts: see [Walk].
 */
internal abstract class Position {
    private val next = arrayOfNulls<Position>(256)
    private val known = BooleanArray(256)

    /** Whether the terminal may end here. */
    abstract val accepts: Boolean

    /** Whether it may go on. */
    abstract val goesOn: Boolean

    open val uncounted: Position get() = this

    /** In what came from an uncounted position: how long it has become, what is unfinished counted as a whole. */
    open val length: Int get() = 0

    /** The fewest bytes to the end of what has to be finished before it counts. */
    abstract val unfinished: Int

    /** The fewest bytes to the end. */
    abstract val distance: Int

    /** The fewest bytes to the end from where a walk has come with these figures; [NEVER]: it may not come there. */
    abstract fun distanceOf(length: Int, unfinished: Int): Int

    /** Whether the terminal may end when this length is added. */
    open fun mayEndAfter(length: Int): Boolean = true

    /** The position after a byte, if there is one from which the end can be reached. */
    fun next(byte: Int): Position? {
        if (!known[byte]) {
            next[byte] = step(byte)?.takeIf { it.distance < NEVER }
            known[byte] = true
        }
        return next[byte]
    }

    protected abstract fun step(byte: Int): Position?
}

/**
 * The positions of a pattern: sets of its automaton's states, made as they are met.
 *
 * @param bytes those that a token can be had for.
 */
internal class Automaton(private val nfa: Nfa, bytes: BooleanArray) {
    private val distances = nfa.distances(bytes)
    private var positions = HashMap<List<Int>, Position>()

    var start: Position = positionOf(listOf(0))
        private set

    val size: Int get() = positions.size

    /** Lets go of all positions but those that are in use. */
    fun forget() {
        positions = HashMap()
        start = positionOf(listOf(0))
    }

    private fun positionOf(states: Collection<Int>): Position {
        val closed = sortedSetOf<Int>()
        val open = ArrayDeque(states)
        while (open.isNotEmpty()) {
            val state = open.removeLast()
            if (closed.add(state)) open += nfa.jumps[state]
        }
        val kept = closed.filter { it == nfa.end || nfa.edges[it].isNotEmpty() }
        return positions.getOrPut(kept) { StateSet(kept) }
    }

    private inner class StateSet(private val states: List<Int>) : Position() {
        override val accepts = nfa.end in states
        override val goesOn = states.any { nfa.edges[it].isNotEmpty() }
        override val unfinished = states.minOfOrNull { distances[it] } ?: NEVER
        override val distance get() = unfinished

        override fun distanceOf(length: Int, unfinished: Int) = unfinished

        override fun step(byte: Int): Position? {
            val targets = sortedSetOf<Int>()
            for (state in states) {
                for (edge in nfa.edges[state]) if (byte in edge.first..edge.last) targets += edge.target
            }
            return if (targets.isEmpty()) null else positionOf(targets)
        }
    }
}

private const val UNBOUNDED = Int.MAX_VALUE
private const val COUNTING = UNBOUNDED - 1 // an uncounted position counts down from here to tell the length

/**
 * The positions in the characters of a JSON string and its closing quote, with counts instead of copies of the pattern.
 *
 * @param character of one character; no character is the beginning of another.
 * @param hasQuote whether a token can be had for the quote alone.
 */
internal class StringBody(private val character: Automaton, private val hasQuote: Boolean) {
    private val outside = character.start
    private var positions = HashMap<Triple<Position?, Int, Int>, Counted>()

    val size: Int get() = positions.size

    /** @param max null: any number of characters. */
    fun start(min: Int, max: Int?): Position = positionOf(outside, min, max ?: UNBOUNDED)

    fun forget() {
        positions = HashMap()
    }

    private fun positionOf(inner: Position?, min: Int, max: Int): Counted =
        positions.getOrPut(Triple(inner, min, max)) { Counted(inner, min, max) }

    /** @property inner in the character that is being read; null: behind the closing quote. */
    private inner class Counted(val inner: Position?, val min: Int, val max: Int) : Position() {
        private val isWithin get() = inner != null && inner !== outside
        override val accepts get() = inner == null
        override val goesOn get() = inner != null
        override val uncounted get() = positionOf(inner, 0, COUNTING)
        private val begun get() = if (isWithin) 1 else 0
        override val length get() = COUNTING - max + begun
        override val unfinished get() = if (inner != null && isWithin) inner.distance else 0
        override val distance get() = if (accepts) 0 else distanceOf(begun, unfinished)

        override fun distanceOf(length: Int, unfinished: Int): Int {
            if (length > max || !hasQuote) return NEVER
            val missing = maxOf(0, min - length).toLong() * outside.distance
            return sum(unfinished, minOf(NEVER.toLong(), missing + 1).toInt())
        }

        override fun mayEndAfter(length: Int) = length in min..max

        override fun step(byte: Int): Position? {
            if (inner == null) return null
            if (!isWithin && byte == '"'.code) return if (min == 0) positionOf(null, 0, max) else null
            if (!isWithin && max == 0) return null
            val next = inner.next(byte) ?: return null
            if (!next.accepts) return positionOf(next, min, max)
            return positionOf(outside, maxOf(0, min - 1), if (max == UNBOUNDED) max else max - 1)
        }
    }
}
