package org.etpipeline.core

internal const val THOUGHT_BEGINS = "<think>"
internal const val THOUGHT_ENDS = "</think>"

/**
 * The two parts of an answer of a model that thinks first.
 *
 * @property thought between `<think>` and `</think>`, trimmed; empty if there is none.
 * @property answer what is said to the user.
 * @property isThinking whether the thought has not come to its end: there is no answer yet.
 */
data class Parts(val thought: String, val answer: String, val isThinking: Boolean)

/** Divides an answer as [ChatSession] gives it. A thought stands at its beginning or nowhere. */
fun partsOf(text: String): Parts {
    val begun = text.trimStart()
    if (!begun.startsWith(THOUGHT_BEGINS)) return Parts("", text, isThinking = false)
    val rest = begun.removePrefix(THOUGHT_BEGINS)
    val end = rest.indexOf(THOUGHT_ENDS)
    if (end < 0) return Parts(withoutHalfEnd(rest).trim(), "", isThinking = true)
    return Parts(rest.take(end).trim(), rest.substring(end + THOUGHT_ENDS.length).trimStart(), isThinking = false)
}

/** Whether this answer begins with a thought, be it empty. */
internal fun hasThought(text: String): Boolean = text.trimStart().startsWith(THOUGHT_BEGINS)

/** What may be the beginning of the mark at the end is not shown as a thought. */
private fun withoutHalfEnd(thought: String): String {
    val half = (THOUGHT_ENDS.length - 1 downTo 1).firstOrNull { thought.endsWith(THOUGHT_ENDS.take(it)) } ?: 0
    return thought.dropLast(half)
}

/** Whether the template itself begins a thought, so that what the model writes first is one. */
internal val ChatFormat.opensThought: Boolean get() = userToAssistant.trimEnd().endsWith(THOUGHT_BEGINS)
