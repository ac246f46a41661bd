package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/**
 * What the user has set for one conversation; null where the model's own counts. There is no model's own seed or
 * frequency or presence penalty, as no manifest has any.
 *
 * @property systemPrompt empty: none, also where the model has one.
 * @property maxNewTokens longest answer in tokens.
 * @property adapter name of the one that answers; null: the model without any.
 * @property seed with the same one the same answer is drawn again; null: each time another one.
 * @property thinks whether the model is to think before it answers, where its template has a switch for that.
 */
@Serializable
data class ChatSettings(
    @SerialName("system_prompt") val systemPrompt: String? = null,
    val temperature: Float? = null,
    @SerialName("top_p") val topP: Float? = null,
    @SerialName("top_k") val topK: Int? = null,
    @SerialName("min_p") val minP: Float? = null,
    @SerialName("repetition_penalty") val repetitionPenalty: Float? = null,
    @SerialName("max_new_tokens") val maxNewTokens: Int? = null,
    val thinks: Boolean? = null,
    val adapter: String? = null,
    @SerialName("frequency_penalty") val frequencyPenalty: Float? = null,
    @SerialName("presence_penalty") val presencePenalty: Float? = null,
    val seed: Long? = null,
) {
    /** The model's own sampling, with what was set in its place; what a file says beyond all bounds comes within them. */
    fun sampling(own: Sampling): Sampling = Sampling(
        temperature = temperature.within(TEMPERATURES) ?: own.temperature,
        topP = topP.within(TOP_PS) ?: own.topP,
        topK = topK?.coerceIn(TOP_KS) ?: own.topK,
        minP = minP.within(MIN_PS) ?: own.minP,
        repetitionPenalty = repetitionPenalty.within(REPETITION_PENALTIES) ?: own.repetitionPenalty,
    )

    /** What to ask an engine for, where [own] and [ownLongest] are the model's. */
    fun request(own: Sampling, ownLongest: Int): GenerationRequest = GenerationRequest(
        maxNewTokens = maxNewTokens(ownLongest),
        sampling = sampling(own),
        seed = seed,
        frequencyPenalty = frequencyPenalty.within(ANSWER_PENALTIES) ?: 0f,
        presencePenalty = presencePenalty.within(ANSWER_PENALTIES) ?: 0f,
    )

    /** The system prompt to feed, where [own] is the model's. */
    fun systemPrompt(own: String?): String? = (systemPrompt ?: own)?.takeIf { it.isNotBlank() }

    /** The longest answer, where [own] is the model's. */
    fun maxNewTokens(own: Int): Int = maxNewTokens?.coerceIn(LONGEST_ANSWERS) ?: own

    companion object {
        val TEMPERATURES = 0f..2f
        val TOP_PS = 0.05f..1f
        val TOP_KS = 0..200
        val MIN_PS = 0f..0.5f
        val REPETITION_PENALTIES = 1f..2f
        val ANSWER_PENALTIES = 0f..2f
        val LONGEST_ANSWERS = 16..4096
    }
}

private fun Float?.within(range: ClosedFloatingPointRange<Float>): Float? =
    this?.takeIf { it.isFinite() }?.coerceIn(range)
