package org.etpipeline.core

import org.etpipeline.core.grammar.Grammar

private const val MOST_REPLIES = 3
// Letters of every script: Android's and Java's \w differ. Android wants the closing brace escaped, too.
private val PLACEHOLDER = Regex("""\{([\p{L}\p{N}_]+)\}""")
private val BULLET = Regex("""^(?:[-*•–—·]|\(?\d{1,2}[.):])(?:\s+|$)""")
private val QUOTES = listOf('"' to '"', '\'' to '\'', '“' to '”', '‘' to '’', '„' to '“', '«' to '»', '`' to '`')

/**
 * The user message that a task makes of [text] and one of the [choices] per name (default: the first of each).
 *
 * All is replaced in one pass: what the user types may contain braces. Unknown names stay as they are.
 */
fun Task.fill(text: String, choices: Map<String, String> = emptyMap()): String {
    val first = this.choices.filterValues { it.isNotEmpty() }.mapValues { (_, options) -> options.first() }
    val values = first + choices + ("text" to text)
    return PLACEHOLDER.replace(template) { match -> values[match.groupValues[1]] ?: match.value }
}

private const val BUILT_IN = "builtin:tiny_assistant"

/** As the built-in model was taught to answer: what may help, and on a line of its own when a doctor is needed. */
private val SYMPTOM_CHECK by lazy { Grammar.ofRegex("""[^\n]{5,250}\nSee a doctor [^\n]{5,160}""") }

/**
 * What answers to the task of this [key] are held to; null: to nothing.
 *
 * Only where it is known how the model answers: one that is held to what it was not taught answers worse.
 */
fun Manifest.grammarOf(key: String): Grammar? =
    SYMPTOM_CHECK.takeIf { key == "symptom_check" && what.source.source == BUILT_IN }

/** The different replies, at most three, of an answer that lists them line by line: no bullets, numbers or quotes. */
fun splitReplies(answer: String): List<String> =
    answer.lines()
        .map { withoutQuotes(it.trim().replace(BULLET, "").trim()) }
        .filter { it.isNotEmpty() }
        .distinct()
        .take(MOST_REPLIES)

private fun withoutQuotes(line: String): String {
    val isQuoted = line.length >= 2 && QUOTES.any { (open, close) -> line.first() == open && line.last() == close }
    return if (isQuoted) line.substring(1, line.length - 1).trim() else line
}
