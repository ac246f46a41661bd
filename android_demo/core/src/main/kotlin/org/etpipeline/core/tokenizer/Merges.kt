package org.etpipeline.core.tokenizer

private const val FREE = -1L

/** Which pairs of tokens become one, and which pairs before others. */
internal class Merges(most: Int) {
    private val slots = Integer.highestOneBit(maxOf(8, most * 2)) * 2
    private val pairs = LongArray(slots) { FREE }
    private val ranks = IntArray(slots)
    private val made = IntArray(most)

    /** Adds the pair of this rank, in place of an earlier rank of the same pair. */
    fun add(rank: Int, left: Int, right: Int, merged: Int) {
        val slot = slotOf(left, right)
        pairs[slot] = pairOf(left, right)
        ranks[slot] = rank
        made[rank] = merged
    }

    /** The pair's rank; -1 if it does not become one. */
    fun rankOf(left: Int, right: Int): Int {
        val slot = slotOf(left, right)
        return if (pairs[slot] == FREE) -1 else ranks[slot]
    }

    /** What the pair of this rank becomes. */
    fun mergedOf(rank: Int): Int = made[rank]

    private fun slotOf(left: Int, right: Int): Int {
        val pair = pairOf(left, right)
        var slot = (pair * -0x61c8864680b583ebL ushr 32).toInt() and (slots - 1)
        while (pairs[slot] != FREE && pairs[slot] != pair) slot = (slot + 1) and (slots - 1)
        return slot
    }

    private fun pairOf(left: Int, right: Int): Long = left.toLong() shl 32 or right.toLong()
}
