package org.etpipeline.core.search

private const val NOTES = "{notes}"
private const val QUESTION = "{question}"

/** A number of notes that people still look through. */
private const val MOST_SOURCES = 4

/**
 * What a model is asked about notes.
 *
 * @param template with `{notes}` and `{question}`, each once.
 * @param question of the user; it may hold braces, as the notes may.
 */
class NotesPrompt(template: String, private val question: String) {
    private val parts = Regex("(?=\\{notes\\}|\\{question\\})|(?<=\\{notes\\}|\\{question\\})").split(template)

    init {
        require(listOf(NOTES, QUESTION).all { name -> parts.count { it == name } == 1 }) { "the template lacks a place" }
    }

    /** The message with these sources, numbered from 1. */
    fun with(sources: List<String>): String {
        val numbered = sources.withIndex().joinToString("\n") { (at, source) -> numbered(at, source) }
        return parts.joinToString("") { if (it == NOTES) numbered else if (it == QUESTION) question else it }
    }

    /**
     * As many of [hits], the best first, as fit: the first one cut to what fits, if it does not alone.
     *
     * @param room tokens for the whole message.
     * @param count tokens of a text.
     */
    suspend fun fitting(hits: List<Hit>, room: Int, count: suspend (String) -> Int): List<Hit> {
        var left = room - count(with(emptyList()))
        val taken = mutableListOf<Hit>()
        for (hit in hits.take(MOST_SOURCES)) {
            val fitting = if (taken.isEmpty()) shortened(hit, left, count) else hit
            val tokens = count(numbered(taken.size, fitting.chunk.text) + "\n")
            if (tokens > left) break
            left -= tokens
            taken += fitting
        }
        return taken
    }

    /** As many words of a hit as fit; of a text without spaces, as many characters. */
    private suspend fun shortened(hit: Hit, room: Int, count: suspend (String) -> Int): Hit {
        val whole = hit.chunk.text
        suspend fun fits(length: Int) = count(numbered(0, whole.take(length)) + "\n") <= room
        if (fits(whole.length)) return hit
        var (fitting, tooLong) = 0 to whole.length
        while (tooLong - fitting > 1) {
            val middle = (fitting + tooLong) / 2
            if (fits(middle)) fitting = middle else tooLong = middle
        }
        if (fitting > 0 && whole[fitting].isLowSurrogate()) fitting--
        val part = whole.take(fitting)
        val text = if (whole[fitting].isWhitespace()) part else part.substringBeforeLast(' ', part)
        return hit.copy(chunk = hit.chunk.copy(text = text.trimEnd()))
    }

    private fun numbered(at: Int, source: String) = "[${at + 1}] ${source.replace(LINE_END, " ")}"

    private companion object {
        val LINE_END = Regex("""\s*\n\s*""")
    }
}
