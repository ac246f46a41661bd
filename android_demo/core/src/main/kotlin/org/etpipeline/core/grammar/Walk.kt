package org.etpipeline.core.grammar

import java.util.BitSet

/**
 * What of a vocabulary goes on from an uncounted position: which tokens stay within the terminal and at which nodes of
 * the tree it may end, whatever comes behind it.
 *
 * Nearly all the tokens that are allowed within a string are found here once and for all strings of all answers.
 */
internal class Walk(start: Position, tree: TokenTree) {
    /** Tokens that come to the same figures, of [Position.distanceOf]. */
    class Group(val length: Int, val unfinished: Int, tokens: IntArray, all: Int) {
        // Many tokens are joined faster as bits, few as numbers.
        private val bits = if (tokens.size < all / 32) null else BitSet(all).also { bits -> tokens.forEach(bits::set) }
        private val few = if (bits == null) tokens else IntArray(0)

        fun addTo(mask: BitSet) {
            bits?.let(mask::or)
            few.forEach(mask::set)
        }
    }

    val groups: List<Group>

    /** Nodes at which the terminal may end, and its [lengths] there. */
    val exits: IntArray
    val lengths: IntArray

    init {
        val found = HashMap<Position, Numbers>()
        val exits = Numbers()
        val lengths = Numbers()
        val positions = arrayOfNulls<Position>(tree.depth + 1)
        positions[0] = start
        var node = 1
        val end = tree.end(0)
        while (node < end) {
            val depth = tree.depth(node)
            val position = positions[depth - 1]?.next(tree.byte(node))
            positions[depth] = position
            if (position == null) {
                node = tree.end(node)
                continue
            }
            if (position.goesOn && tree.first(node) < tree.first(node + 1)) {
                val tokens = found.getOrPut(position) { Numbers() }
                tree.forTokens(node) { tokens.add(it) }
            }
            if (position.accepts) {
                exits.add(node)
                lengths.add(position.length)
            }
            node++
        }
        val all = tree.first(end)
        val alike = found.entries.groupBy({ (at, _) -> at.length to at.unfinished }, { it.value.toArray() })
        groups = alike.map { (figures, tokens) -> Group(figures.first, figures.second, joined(tokens), all) }
        this.exits = exits.toArray()
        this.lengths = lengths.toArray()
    }
}

private fun joined(arrays: List<IntArray>): IntArray = arrays.fold(IntArray(0)) { all, each -> all + each }

/** A list of numbers that grows. */
private class Numbers {
    private var items = IntArray(16)
    private var size = 0

    fun add(number: Int) {
        if (size == items.size) items = items.copyOf(size * 2)
        items[size++] = number
    }

    fun toArray(): IntArray = items.copyOf(size)
}
