package org.etpipeline.core.search

import java.text.BreakIterator

/**
 * A part of a text that is embedded by itself.
 *
 * @property start where in the text it begins.
 */
data class Chunk(val start: Int, val text: String)

/** Paragraphs are put together up to so many tokens: a heading alone says little, and a long text many things. */
private const val COMFORTABLE = 64

private val GAP = Regex("""\n[ \t\r]*\n\s*""")
private val LINE_END = Regex("""\s*\n\s*""")
private val SPACE = Regex("""\s+""")

/**
 * The paragraphs of a text, short ones together with their neighbours, and long ones cut where it hurts least: at the end
 * of a line, of a sentence, of a word, or else anywhere.
 *
 * @param most tokens of a chunk.
 * @param count tokens of a text.
 */
suspend fun chunksOf(text: String, most: Int, count: suspend (String) -> Int): List<Chunk> {
    require(most > 0) { "no token fits" }
    return Cutting(text, most, count).chunks()
}

private class Cutting(private val text: String, private val most: Int, private val count: suspend (String) -> Int) {
    private class Part(val start: Int, val end: Int, val tokens: Int)

    private val parts = mutableListOf<Part>()

    suspend fun chunks(): List<Chunk> {
        cut(0, text.length, level = 0)
        return parts.map { Chunk(it.start, text.substring(it.start, it.end)) }
    }

    private suspend fun cut(from: Int, to: Int, level: Int) {
        for ((start, end) in pieces(from, to, level)) {
            val tokens = count(text.substring(start, end))
            when {
                tokens <= most || end - start == 1 -> add(Part(start, end, tokens), if (level < 2) COMFORTABLE else most)
                else -> cut(start, end, level + 1)
            }
        }
    }

    /** Puts a part behind the last one, or into it if both together have at most [together] tokens. */
    private fun add(part: Part, together: Int) {
        val last = parts.lastOrNull()
        if (last != null && last.tokens + part.tokens <= minOf(together, most)) {
            parts[parts.lastIndex] = Part(last.start, part.end, last.tokens + part.tokens)
        } else {
            parts += part
        }
    }

    /** Begins and ends, without white space around. */
    private fun pieces(from: Int, to: Int, level: Int): List<Pair<Int, Int>> {
        val ends = when (level) {
            0 -> ends(GAP, from, to)
            1 -> ends(LINE_END, from, to)
            2 -> sentenceEnds(from, to)
            3 -> ends(SPACE, from, to)
            else -> listOf(middle(from, to))
        }
        val borders = listOf(from) + ends.filter { it > from && it < to } + to
        return borders.zipWithNext().mapNotNull { (start, end) -> trimmed(start, end) }
    }

    private fun ends(gap: Regex, from: Int, to: Int): List<Int> =
        gap.findAll(text.substring(from, to)).map { from + it.range.last + 1 }.toList()

    private fun sentenceEnds(from: Int, to: Int): List<Int> {
        val sentences = BreakIterator.getSentenceInstance().also { it.setText(text.substring(from, to)) }
        return generateSequence { sentences.next().takeIf { it != BreakIterator.DONE } }.map { from + it }.toList()
    }

    /** Not between the halves of a character. */
    private fun middle(from: Int, to: Int): Int {
        val middle = from + (to - from) / 2
        return if (text[middle].isLowSurrogate() && middle - 1 > from) middle - 1 else middle
    }

    private fun trimmed(from: Int, to: Int): Pair<Int, Int>? {
        var (start, end) = from to to
        while (start < end && text[start].isWhitespace()) start++
        while (end > start && text[end - 1].isWhitespace()) end--
        return if (start < end) start to end else null
    }
}
