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

/** How tasks are asked: at once, where the template has a switch for thinking, as their answers are short. */
val Manifest.taskChat: Chat get() = chat.thatThinks(false)

private const val BUILT_IN = "builtin:tiny_assistant"

/** As the built-in model was taught to answer: what may help, and on a line of its own when a doctor is needed. */
private val SYMPTOM_CHECK by lazy { Grammar.ofRegex("""[^\n]{5,250}\nSee a doctor [^\n]{5,160}""") }

/** Three, numbered: the first words of the answer are a reply, and not what kind of replies there will be. */
private val THREE_REPLIES by lazy { Grammar.ofRegex("""1\. [^ \n][^\n]*\n2\. [^ \n][^\n]*\n3\. [^ \n][^\n]*""") }

/** A model whose answers are right as often as this, in percent, was taught their form. */
private const val TAUGHT = 50.0

/**
 * What answers to the task of this [key] are held to; null: to nothing.
 *
 * A model that was taught another form answers worse in this one, so only the built-in one's symptom check has its own,
 * and only models that were not taught replies are made to number them.
 */
fun Manifest.grammarOf(key: String): Grammar? {
    val isTaught = (quality.tasks[key]?.original ?: 0.0) >= TAUGHT
    return when (key) {
        "symptom_check" -> SYMPTOM_CHECK.takeIf { what.source.source == BUILT_IN }
        "smart_reply" -> THREE_REPLIES.takeIf { !isTaught && !taskChat.segments.opensThought }
        else -> null
    }
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
