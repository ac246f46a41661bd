package org.etpipeline.core.grammar

private const val MOST_STATES = 200_000

/** More than any answer can take: there is no end to be reached. */
internal const val NEVER: Int = 1 shl 29

/** Adds lengths, of which each may be [NEVER]. */
internal fun sum(a: Int, b: Int): Int = minOf(NEVER, a + b)

/** The automaton of a pattern over bytes. It starts at state 0 and ends at [end]. */
internal class Nfa(pattern: Pattern) {
    class Edge(val first: Int, val last: Int, val target: Int)

    val edges = mutableListOf<MutableList<Edge>>()
    val jumps = mutableListOf<MutableList<Int>>() // moves without a byte
    val end: Int

    init {
        newState()
        end = add(pattern, 0)
    }

    /**
     * The fewest bytes from each state to the end, one token each.
     *
     * @param bytes those that a token can be had for.
     */
    fun distances(bytes: BooleanArray): IntArray {
        val back = List(edges.size) { mutableListOf<Pair<Int, Int>>() }
        for (state in edges.indices) {
            for (target in jumps[state]) back[target] += state to 0
            for (edge in edges[state]) {
                if ((edge.first..edge.last).any { bytes[it] }) back[edge.target] += state to 1
            }
        }
        val distances = IntArray(edges.size) { NEVER }
        val queue = ArrayDeque(listOf(end))
        distances[end] = 0
        while (queue.isNotEmpty()) {
            val state = queue.removeFirst()
            for ((source, length) in back[state]) {
                if (distances[state] + length >= distances[source]) continue
                distances[source] = distances[state] + length
                if (length == 0) queue.addFirst(source) else queue.addLast(source)
            }
        }
        return distances
    }

    private fun newState(): Int {
        if (edges.size >= MOST_STATES) throw GrammarException("pattern: it repeats too much to be held to")
        edges += ArrayList<Edge>(1)
        jumps += ArrayList<Int>(1)
        return edges.lastIndex
    }

    /** Adds what leads from a state through a pattern and returns where it leads. Nothing leads back to [from]. */
    private fun add(pattern: Pattern, from: Int): Int =
        when (pattern) {
            is Pattern.Characters -> addCharacters(pattern.set, from)
            is Pattern.Sequence -> pattern.parts.fold(from) { state, part -> add(part, state) }
            is Pattern.Choice -> {
                val ends = pattern.options.map { add(it, from) }
                newState().also { end -> ends.forEach { jumps[it] += end } }
            }
            is Pattern.Repeat -> addRepeat(pattern, from)
        }

    private fun addCharacters(set: CodePoints, from: Int): Int {
        val end = newState()
        for (sequence in set.utf8()) {
            var state = from
            sequence.forEachIndexed { index, range ->
                val target = if (index == sequence.lastIndex) end else newState()
                edges[state] += Edge(range.first, range.last, target)
                state = target
            }
        }
        return end
    }

    private fun addRepeat(repeat: Pattern.Repeat, from: Int): Int {
        var state = from
        repeat(repeat.min) { state = add(repeat.body, state) }
        if (repeat.max == null) {
            val loop = newState()
            jumps[state] += loop
            jumps[add(repeat.body, loop)] += loop
            return newState().also { jumps[loop] += it }
        }
        val ends = mutableListOf(state)
        repeat(repeat.max - repeat.min) {
            state = add(repeat.body, state)
            ends += state
        }
        return newState().also { end -> ends.forEach { jumps[it] += end } }
    }
}
