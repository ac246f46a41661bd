package org.etpipeline.core.tokenizer

import java.util.Locale
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem

/** Makes tokens of a word. */
internal interface Model {
    val vocabulary: Vocabulary

    /** Puts the ids of [word]'s tokens, which is not empty, into [into]. */
    fun tokenize(word: String, into: Ids)
}

/** A text needs a token that the vocabulary does not have. */
internal fun noUnknownToken() =
    EngineException(Problem.BadTokenizer("model.unk_token is not in the vocabulary, and a text needs it"))

/** The tokens of the 256 bytes, `<0x00>` to `<0xFF>`; -1 where there is none. */
internal fun byteTokens(vocabulary: Vocabulary): IntArray =
    IntArray(256) { vocabulary.idOf("<0x%02X>".format(Locale.ROOT, it)) ?: -1 }

/** Tokens of the bytes of a text; false, and nothing added, if one of them has none. */
internal fun addBytes(text: String, tokens: IntArray, into: Ids): Boolean {
    val bytes = text.encodeToByteArray().map { tokens[it.toInt() and 0xFF] }
    if (bytes.any { it < 0 }) return false
    bytes.forEach(into::add)
    return true
}

/** Takes the longest token that a word begins with, and so on. */
internal class WordPiece(
    override val vocabulary: Vocabulary,
    private val unknown: Int?,
    private val prefix: String,
    private val longest: Int,
) : Model {
    override fun tokenize(word: String, into: Ids) {
        val found = if (word.codePointCount(0, word.length) > longest) null else pieces(word)
        if (found == null) into.add(unknown ?: throw noUnknownToken()) else found.forEach(into::add)
    }

    private fun pieces(word: String): List<Int>? {
        val found = mutableListOf<Int>()
        val rest = StringBuilder(word)
        while (rest.length > prefixOf(found)) {
            var end = rest.length
            var id = -1
            while (end > prefixOf(found)) {
                id = vocabulary.find(rest, 0, end)
                if (id >= 0) break
                end -= Character.charCount(Character.codePointBefore(rest, end))
            }
            if (id < 0) return null
            rest.delete(0, end).insert(0, prefix)
            found += id
        }
        return found
    }

    /** How much of the rest is no part of the word. */
    private fun prefixOf(found: List<Int>) = if (found.isEmpty()) 0 else prefix.length
}

/** Takes that way through a word whose tokens are the likeliest together. */
internal class Unigram(
    override val vocabulary: Vocabulary,
    private val scores: DoubleArray,
    private val unknown: Int?,
    byteFallback: Boolean,
) : Model {
    private val unknownScore = (scores.minOrNull() ?: 0.0) - 10.0
    private val bytes = if (byteFallback) byteTokens(vocabulary) else null

    override fun tokenize(word: String, into: Ids) {
        val best = DoubleArray(word.length + 1)
        val from = IntArray(word.length + 1) { -1 }
        val ids = IntArray(word.length + 1)
        fun reach(end: Int, start: Int, score: Double, id: Int) {
            if (from[end] >= 0 && best[start] + score <= best[end]) return
            best[end] = best[start] + score
            from[end] = start
            ids[end] = id
        }
        var at = 0
        while (at < word.length) {
            val next = at + Character.charCount(word.codePoint(at))
            var isKnown = false
            vocabulary.eachAt(word, at) { end, id ->
                reach(end, at, scores[id], id)
                if (end == next) isKnown = true
            }
            if (!isKnown) reach(next, at, unknownScore, unknown ?: throw noUnknownToken())
            at = next
        }
        ways(word.length, from, ids).forEach { (start, end) -> add(word.substring(start, end), into) }
    }

    /** The tokens' starts and ends, from the last to the first and then turned; unknown ones side by side are one. */
    private fun ways(length: Int, from: IntArray, ids: IntArray): List<Pair<Int, Int>> {
        val found = mutableListOf<Pair<Int, Int>>()
        var end = length
        while (end > 0) {
            var start = from[end]
            if (ids[end] == unknown) while (start > 0 && ids[start] == unknown) start = from[start]
            found += start to end
            end = start
        }
        return found.asReversed()
    }

    private fun add(text: String, into: Ids) {
        val id = vocabulary.idOf(text)
        when {
            id != null -> into.add(id)
            bytes != null && addBytes(text, bytes, into) -> Unit
            else -> into.add(unknown ?: throw noUnknownToken())
        }
    }
}
