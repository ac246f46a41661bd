package org.etpipeline.core.tokenizer

import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val LONGEST_CLUSTER = 6 // bytes; shorter ones are looked up as a whole

/**
 * The table of replacements of a SentencePiece model, a trie in an array; in the file it is `Precompiled`.
 *
 * @param bytes the trie's length, the trie, and what is put in for each, ended by zeros.
 */
internal class CharsMap(bytes: ByteArray) : Normalizer {
    private val trie: IntArray
    private val texts: ByteArray

    init {
        val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
        require(bytes.size >= 4) { "it is empty" }
        val units = buffer.getInt() / 4
        require(units in 1..buffer.remaining() / 4) { "its length is wrong" }
        trie = IntArray(units) { buffer.getInt() }
        texts = ByteArray(buffer.remaining()).also { buffer.get(it) }
    }

    override fun normalize(text: String): String {
        val made = StringBuilder(text.length)
        var at = 0
        while (at < text.length) {
            val end = clusterEnd(text, at)
            val cluster = text.substring(at, end)
            val isShort = cluster.length < LONGEST_CLUSTER && cluster.encodeToByteArray().size < LONGEST_CLUSTER
            val whole = if (isShort) replacement(cluster) else null
            if (whole != null) made.append(whole) else cluster.eachCodePoint { char ->
                val one = String(Character.toChars(char))
                made.append(replacement(one) ?: one)
            }
            at = end
        }
        return made.toString()
    }

    /** What the shortest beginning of [chunk] that is in the table becomes: so it is in the Rust library. */
    private fun replacement(chunk: String): String? {
        var node = offset(trie[0])
        for (byte in chunk.encodeToByteArray()) {
            val label = byte.toInt() and 0xFF
            if (label == 0) return null
            node = node xor label
            val unit = trie.getOrElse(node) { return null }
            if (unit and (1 shl 31 or 0xFF) != label) return null
            node = node xor offset(unit)
            if (unit ushr 8 and 1 == 1) return textAt(trie[node] and Int.MAX_VALUE)
        }
        return null
    }

    private fun offset(unit: Int): Int = unit ushr 10 shl (unit and (1 shl 9) ushr 6)

    private fun textAt(start: Int): String {
        var end = start
        while (end < texts.size && texts[end] != 0.toByte()) end++
        return String(texts, start, end - start, Charsets.UTF_8)
    }
}

private val CONTROL = Chars.category("Cc") + Chars.category("Cf") + Chars.category("Zl") + Chars.category("Zp")

/** What Unicode's rules for clusters take for a letter's beginning; Cf, but none that ends a cluster. */
private val PREPENDED = Chars.ranges(
    "600-605 6DD 70F 890-891 8E2 D4E 110BD 110CD 111C2-111C3 1193F 11941 11A3A 11A84-11A89 11D46 11F02",
)
private val NOT_SPACING = Chars.ranges(
    "102B-102C 1038 1062-1064 1067-106D 1083 1087-108C 108F 109A-109C 1A61 1A63-1A64 AA7B AA7D 11720-11721",
)
private val EXTENDING = Chars.category("Mn") + Chars.category("Me") + (Chars.category("Mc") - NOT_SPACING) +
    Chars.ranges("200C 200D E33 EB3 FF9E-FF9F 1F3FB-1F3FF E0020-E007F")
private val ENDING = CONTROL - PREPENDED - Chars.ranges("200C 200D E0020-E007F")

/**
 * Where the cluster of characters that a reader takes for one ends.
 *
 * Of Unicode's rules there are those that make clusters of less than six bytes: only these are looked up as a whole.
 */
private fun clusterEnd(text: String, at: Int): Int {
    var last = text.codePoint(at)
    var end = at + Character.charCount(last)
    if (last == '\r'.code) return if (text.startsWith("\n", end)) end + 1 else end
    while (end < text.length && last !in ENDING) {
        val next = text.codePoint(end)
        val isMore = next in EXTENDING || last in PREPENDED && next !in ENDING
        if (!isMore) break
        last = next
        end += Character.charCount(next)
    }
    return end
}
