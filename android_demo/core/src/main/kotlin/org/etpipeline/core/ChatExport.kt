package org.etpipeline.core

import java.text.Normalizer
import java.util.Locale
import kotlinx.serialization.json.Json

private val PRETTY = Json { prettyPrint = true }
private val NO_NAME = Regex("""[^\p{L}\p{N}]+""")
private val ACCENTS = Regex("""\p{Mn}+""")
private const val LONGEST_NAME = 40

/**
 * The conversation as a document for people. What a model thought is not in it; which adapter it had is.
 *
 * @param user what the user is called in it, in the user's language.
 * @param model what the model is called.
 */
fun Conversation.toMarkdown(user: String, model: String): String = buildString {
    append("# ").append(title.trim()).append("\n")
    for (turn in turns) {
        append("\n## ").append(if (turn.role == Role.USER) user else model)
        turn.adapter?.let { append(" ($it)") }
        append("\n\n")
        append((if (turn.role == Role.USER) turn.text else partsOf(turn.text).answer).trim()).append("\n")
    }
}

/** The conversation for programs: all that is kept of it. */
fun Conversation.toJson(): String = PRETTY.encodeToString(Conversation.serializer(), this) + "\n"

/** A file's name for this conversation, without an ending. */
fun Conversation.fileName(): String =
    title.replace(NO_NAME, "-").trim('-').take(LONGEST_NAME).trim('-').ifEmpty { "chat" }

/**
 * Looks for conversations in which all words of [query] stand, in the title or in what was said, be it as parts of
 * words. Neither case nor accents matter.
 */
class ChatSearch(query: String) {
    private val words = folded(query).split(' ', '\t', '\n').filter { it.isNotEmpty() }

    fun finds(text: SearchedText): Boolean = words.all { it in text.folded }
}

/** All that can be found of a conversation; made once, as it takes time. */
class SearchedText(conversation: Conversation) {
    internal val folded by lazy {
        folded((listOf(conversation.title) + conversation.turns.map { it.text }).joinToString("\n"))
    }
}

/** Upper case first: `ß` has no other way to `ss`. */
private fun folded(text: String): String =
    Normalizer.normalize(text, Normalizer.Form.NFKD).replace(ACCENTS, "").uppercase(Locale.ROOT).lowercase(Locale.ROOT)
