package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/** Who said a message. */
@Serializable
enum class Role {
    @SerialName("user") USER,
    @SerialName("assistant") ASSISTANT,
}

/** One message of a chat. */
@Serializable
data class Message(val role: Role, val text: String)

/**
 * The fixed text around the messages of a chat, compiled from the model's Jinja template by et_pipeline.
 *
 * Every message is trimmed before use. All strings empty: no template, the model continues plain text.
 */
@Serializable
data class ChatFormat(
    @SerialName("system_prefix") val systemPrefix: String = "",
    @SerialName("system_to_user") val systemToUser: String = "",
    @SerialName("start_to_user") val startToUser: String = "",
    @SerialName("user_to_assistant") val userToAssistant: String = "",
    @SerialName("assistant_to_user") val assistantToUser: String = "",
    @SerialName("user_to_past_assistant") val userToPastAssistant: String = "",
    @SerialName("supports_system") val supportsSystem: Boolean = false,
    @SerialName("frozen_date") val frozenDate: String? = null,
) {
    /** The text of a whole chat, ready for the model to answer. Messages alternate, user first and last. */
    fun render(messages: List<Message>, systemPrompt: String? = null): String {
        require(messages.isNotEmpty() && messages.size % 2 == 1) { "the user has the last word" }
        require(messages.withIndex().all { (i, m) -> m.role == if (i % 2 == 0) Role.USER else Role.ASSISTANT }) {
            "user and assistant take turns"
        }
        return buildString {
            if (systemPrompt.isNullOrBlank() || !supportsSystem) {
                append(startToUser)
            } else {
                append(systemPrefix).append(systemPrompt.trim()).append(systemToUser)
            }
            messages.dropLast(1).chunked(2) { (question, answer) ->
                append(question.text.trim()).append(userToPastAssistant)
                append(answer.text.trim()).append(assistantToUser)
            }
            append(messages.last().text.trim()).append(userToAssistant)
        }
    }

    /** The text of one more user turn, when the context holds the chat up to the end of the last answer. */
    fun nextTurn(userText: String): String = assistantToUser + userText.trim() + userToAssistant
}
