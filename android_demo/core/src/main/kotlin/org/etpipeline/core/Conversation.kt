package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/**
 * A saved conversation.
 *
 * @property id names it on disk.
 * @property bundle id of the bundle that it was held with; another bundle may go on with it.
 * @property title what the list of conversations shows.
 * @property updated milliseconds since 1970 of the last change.
 * @property turns everything that was said, in order.
 * @property settings what the user has set for it.
 */
@Serializable
data class Conversation(
    val id: String,
    val bundle: String,
    val title: String,
    val updated: Long,
    val turns: List<SavedMessage>,
    val settings: ChatSettings = ChatSettings(),
)

/**
 * One message of a saved conversation.
 *
 * @property stats what the answer took; null for a question.
 * @property unfinished whether the answer was broken off: the app was killed or the engine failed while it came.
 * @property adapter name of the adapter with which the model gave the answer.
 * @property thoughtMs milliseconds that the model thought before it said something; null if it did not come to an end.
 */
@Serializable
data class SavedMessage(
    val role: Role,
    val text: String,
    val stats: AnswerStats? = null,
    val unfinished: Boolean = false,
    @SerialName("thought_ms") val thoughtMs: Long? = null,
    val adapter: String? = null,
) {
    /** Whether this is an answer that the model has not ended by itself, so that it can go on with it. */
    val isCut: Boolean
        get() = role == Role.ASSISTANT && text.isNotBlank() && (unfinished || (stats != null && stats.end !in WHOLE))

    private companion object {
        val WHOLE = listOf(Generation.End.MODEL.name)
    }
}

/**
 * What an answer took, kept beside it.
 *
 * @property promptTokens tokens that were fed for it.
 * @property tokens tokens of the answer.
 * @property ttftMs milliseconds until the first token.
 * @property tokensPerSecond speed after the first token; 0 if there was only one.
 * @property end name of the [Generation.End] that it had.
 */
@Serializable
data class AnswerStats(
    @SerialName("prompt_tokens") val promptTokens: Int,
    val tokens: Int,
    @SerialName("ttft_ms") val ttftMs: Double,
    @SerialName("tokens_per_second") val tokensPerSecond: Double,
    val end: String,
)

/** The figures of this generation in the form that is saved. */
fun Generation.toStats(): AnswerStats = AnswerStats(promptTokens, tokens, ttftMs, decodeTokensPerSecond, end.name)

/**
 * A note that the user wrote.
 *
 * @property updated milliseconds since 1970 of the last change.
 */
@Serializable
data class Note(val id: String, val text: String, val updated: Long)
