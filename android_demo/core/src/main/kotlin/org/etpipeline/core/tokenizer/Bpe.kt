package org.etpipeline.core.tokenizer

import java.util.concurrent.ConcurrentHashMap

private const val MOST_WORDS = 10_000 // kept with their tokens
private const val LONGEST_WORD = 256
private const val GONE = -1

/**
 * Begins with a word's characters and makes one token of two that stand side by side, of all pairs the one that comes
 * first in the list, until no pair is in it.
 */
internal class Bpe(
    override val vocabulary: Vocabulary,
    private val merges: Merges,
    private val rules: Rules,
) : Model {
    /**
     * @property dropsUnknown whether a character that is no token is left out, instead of being [unknown].
     * @property ignoresMerges whether a word that is a token is that token, whatever the merges make of it.
     */
    class Rules(
        val dropsUnknown: Boolean,
        val unknown: Int?,
        val fusesUnknown: Boolean,
        val byteFallback: Boolean,
        val ignoresMerges: Boolean,
        val prefix: String, // of every character but a word's first
        val suffix: String, // of a word's last character
    )

    private val bytes = if (rules.byteFallback) byteTokens(vocabulary) else null
    private val known = ConcurrentHashMap<String, IntArray>()

    override fun tokenize(word: String, into: Ids) {
        known[word]?.let { return into.addAll(it) }
        val whole = if (rules.ignoresMerges) vocabulary.idOf(word) else null
        val ids = if (whole != null) intArrayOf(whole) else merged(characters(word))
        if (word.length <= LONGEST_WORD) {
            if (known.size >= MOST_WORDS) known.clear()
            known[word] = ids
        }
        into.addAll(ids)
    }

    private fun characters(word: String): IntArray {
        val ids = Ids()
        var waiting = 0 // unknown characters
        fun say(most: Int) {
            if (waiting > most) ids.add(rules.unknown ?: throw noUnknownToken())
            waiting = minOf(waiting, most)
        }
        var at = 0
        while (at < word.length) {
            val next = at + Character.charCount(word.codePoint(at))
            val id = characterOf(word, at, next)
            when {
                id >= 0 -> {
                    say(0)
                    ids.add(id)
                }
                // The unknown ones that wait come after them: so it is in the Rust library.
                bytes != null && addBytes(spelled(word, at, next), bytes, ids) -> Unit
                !rules.dropsUnknown -> waiting++
            }
            if (!rules.fusesUnknown) say(1)
            at = next
        }
        say(0)
        return ids.toArray()
    }

    private fun characterOf(word: String, at: Int, next: Int): Int {
        val isPlain = rules.prefix.isEmpty() && rules.suffix.isEmpty()
        return if (isPlain) vocabulary.find(word, at, next) else vocabulary.idOf(spelled(word, at, next)) ?: -1
    }

    private fun spelled(word: String, at: Int, next: Int): String {
        val start = if (at > 0) rules.prefix else ""
        return start + word.substring(at, next) + if (next == word.length) rules.suffix else ""
    }

    /** Works on [ids] as a chain whose parts are cut out: `left` and `right` of each are its neighbours. */
    private fun merged(ids: IntArray): IntArray {
        val left = IntArray(ids.size) { it - 1 }
        val right = IntArray(ids.size) { if (it + 1 < ids.size) it + 1 else GONE }
        val queue = Queue(ids.size)
        fun consider(at: Int) {
            val rank = merges.rankOf(ids[at], ids[right[at]])
            if (rank >= 0) queue.add(rank.toLong() shl 32 or at.toLong())
        }
        for (at in 0 until ids.size - 1) consider(at)
        while (queue.isNotEmpty) {
            val top = queue.take()
            val at = top.toInt()
            if (ids[at] == GONE || right[at] == GONE) continue
            val other = right[at]
            val rank = merges.rankOf(ids[at], ids[other])
            val merged = merges.mergedOf((top ushr 32).toInt())
            if (rank < 0 || merges.mergedOf(rank) != merged) continue // something else by now
            ids[at] = merged
            ids[other] = GONE
            right[at] = right[other]
            if (right[at] != GONE) {
                left[right[at]] = at
                consider(at)
            }
            if (left[at] != GONE) consider(left[at])
        }
        val found = Ids()
        for (id in ids) if (id != GONE) found.add(id)
        return found.toArray()
    }
}

/** Numbers, of which always the smallest is taken. */
private class Queue(most: Int) {
    private var heap = LongArray(maxOf(most, 4))
    private var size = 0

    val isNotEmpty get() = size > 0

    fun add(number: Long) {
        if (size == heap.size) heap = heap.copyOf(size * 2)
        var at = size++
        while (at > 0) {
            val above = (at - 1) / 2
            if (heap[above] <= number) break
            heap[at] = heap[above]
            at = above
        }
        heap[at] = number
    }

    fun take(): Long {
        val first = heap[0]
        val last = heap[--size]
        var at = 0
        while (2 * at + 1 < size) {
            var below = 2 * at + 1
            if (below + 1 < size && heap[below + 1] < heap[below]) below++
            if (heap[below] >= last) break
            heap[at] = heap[below]
            at = below
        }
        heap[at] = last
        return first
    }
}
