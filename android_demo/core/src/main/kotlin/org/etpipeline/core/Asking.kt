package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json

/** A newer app may say more than this one knows. */
private val json = Json {
    ignoreUnknownKeys = true
    coerceInputValues = true
}

/**
 * What one app asks the model of another: a whole conversation, as the one that is asked remembers none.
 *
 * @property messages user and assistant in turn, none of them blank; the last one is the question.
 * @property settings what counts instead of the model's own.
 */
@Serializable
data class AskRequest(val messages: List<Message>, val settings: ChatSettings = ChatSettings()) {
    /** As it is sent. */
    fun toJson(): String = json.encodeToString(serializer(), this)

    companion object {
        /** Characters of the longest request: a transaction between apps is 1 MB, shared by all that are under way. */
        const val LONGEST = 65_536

        /**
         * Reads what another app has sent, of which nothing is taken for granted.
         *
         * @throws EngineException [Problem.QuestionTooLong] or [Problem.BadQuestion].
         */
        fun read(text: String): AskRequest {
            if (text.length > LONGEST) throw EngineException(Problem.QuestionTooLong(text.length, LONGEST))
            val request = try {
                json.decodeFromString(serializer(), text)
            } catch (error: IllegalArgumentException) { // a SerializationException is one
                throw bad(error.message?.lineSequence()?.first().orEmpty())
            }
            val messages = request.messages
            if (messages.lastOrNull()?.role != Role.USER) throw bad("the last message is not the user's")
            if (messages.any { it.text.isBlank() }) throw bad("a message is blank")
            if (messages.zipWithNext().any { (one, next) -> one.role == next.role }) {
                throw bad("user and assistant do not take turns")
            }
            if (messages.first().role != Role.USER) throw bad("the first message is not the user's")
            return request
        }

        private fun bad(detail: String) = EngineException(Problem.BadQuestion(detail))
    }
}

/**
 * How an answer to another app ended; its text was sent before, piece by piece.
 *
 * @property stats what it took.
 * @property droppedTurns how many of the oldest turns the model has not seen; they did not fit.
 */
@Serializable
data class AnswerEnd(val stats: AnswerStats, @SerialName("dropped_turns") val droppedTurns: Int = 0) {
    constructor(answer: Answer) : this(answer.generation.toStats(), answer.droppedTurns)

    /** As it is sent. */
    fun toJson(): String = json.encodeToString(serializer(), this)

    companion object {
        /** @throws IllegalArgumentException it is none. */
        fun read(text: String): AnswerEnd = json.decodeFromString(serializer(), text)
    }
}

/**
 * Why another app got no answer, or no whole one.
 *
 * @property reason what an app can act upon.
 * @property sentence for its user, in the language of the app that was asked.
 */
@Serializable
data class Refusal(val reason: Reason = Reason.FAILED, val sentence: String = "") {
    /** One of a newer version that this one does not know is read as [FAILED]. */
    @Serializable
    enum class Reason {
        /** No app is there that answers, or it lets nobody in: install it, or ask the user for its permission. */
        @SerialName("not_there") NOT_THERE,

        /** The permission was not granted. */
        @SerialName("not_allowed") NOT_ALLOWED,

        /** The user has switched it off over there. */
        @SerialName("off") OFF,

        /** Too many wait already: ask later. */
        @SerialName("busy") BUSY,

        /** What was asked is too long, for sending it or for the model. */
        @SerialName("too_long") TOO_LONG,

        /** What was asked is no conversation. */
        @SerialName("bad_request") BAD_REQUEST,

        /** The one that was asked is older than the one that asks. */
        @SerialName("other_version") OTHER_VERSION,

        /** There is no model that could answer. */
        @SerialName("no_model") NO_MODEL,

        /** It went wrong, or the other app ended meanwhile. */
        @SerialName("failed") FAILED,
    }

    /** As it is sent. */
    fun toJson(): String = json.encodeToString(serializer(), this)

    companion object {
        /** @throws IllegalArgumentException it is none. */
        fun read(text: String): Refusal = json.decodeFromString(serializer(), text)

        /** What [problem] means to the app that asked, whose user is told [sentence]. */
        fun of(problem: Problem, sentence: String): Refusal = Refusal(reasonOf(problem), sentence)
    }
}

private fun reasonOf(problem: Problem): Refusal.Reason = when (problem) {
    Problem.AskingNotAllowed -> Refusal.Reason.NOT_ALLOWED
    Problem.AskingIsOff -> Refusal.Reason.OFF
    is Problem.TooManyQuestions -> Refusal.Reason.BUSY
    is Problem.QuestionTooLong, Problem.PromptTooLong -> Refusal.Reason.TOO_LONG
    is Problem.BadQuestion -> Refusal.Reason.BAD_REQUEST
    is Problem.NewerQuestion -> Refusal.Reason.OTHER_VERSION
    Problem.NoModel -> Refusal.Reason.NO_MODEL
    else -> Refusal.Reason.FAILED
}
