package org.etpipeline.core

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
