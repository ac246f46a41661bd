package org.etpipeline.core

import java.text.BreakIterator
import java.util.Locale

/**
 * Divides an answer, while it comes, into what can be read aloud: whole sentences, each once, and without marks.
 *
 * @param done characters of it that are not to be read: they were there before, or have been read already.
 */
class Sentences(locale: Locale, done: Int = 0) {
    private val boundaries = BreakIterator.getSentenceInstance(locale)

    /** Characters of the answer that are read. */
    var done: Int = done
        private set

    /** The sentences of [answer] that have ended since the last call; empty if none has. */
    fun ended(answer: String): String {
        boundaries.setText(answer)
        return upTo(answer, boundaries.preceding(answer.length).coerceAtLeast(0)) // behind it stands one that may go on
    }

    /** All of [answer] that was not read yet. */
    fun rest(answer: String): String = upTo(answer, answer.length)

    private fun upTo(answer: String, end: Int): String {
        if (end <= done) return ""
        val text = answer.substring(done, end)
        done = end
        return spokenText(text)
    }
}

/** Markdown as it is read aloud. */
private fun spokenText(text: String): String = readMarkdown(text).joinToString("\n") { block ->
    when (block) {
        is Block.Paragraph -> block.text.spoken()
        is Block.Heading -> block.text.spoken()
        is Block.Item -> "${block.mark} ${block.text.spoken()}"
        is Block.Code -> block.text
        Block.Rule -> ""
    }
}.trim()

private fun List<Span>.spoken(): String = joinToString("") { it.text }
