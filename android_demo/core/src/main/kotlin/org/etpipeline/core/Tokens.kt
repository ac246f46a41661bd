package org.etpipeline.core

/** Token ids that grow at the end and are cut there: what a context holds. */
class Tokens {
    private var ids = IntArray(256)

    var size = 0
        private set

    operator fun get(at: Int): Int {
        require(at in 0 until size) { "there are $size tokens, none at $at" }
        return ids[at]
    }

    operator fun plusAssign(more: IntArray) {
        if (size + more.size > ids.size) ids = ids.copyOf(maxOf(2 * ids.size, size + more.size))
        more.copyInto(ids, size)
        size += more.size
    }

    operator fun plusAssign(one: Int) = plusAssign(intArrayOf(one))

    /** Keeps the first [count]. */
    fun cut(count: Int) {
        require(count in 0..size) { "there are $size tokens" }
        size = count
    }

    /** How many at the beginning are those of [other]. */
    fun common(other: IntArray): Int {
        val most = minOf(size, other.size)
        return (0 until most).firstOrNull { ids[it] != other[it] } ?: most
    }
}
