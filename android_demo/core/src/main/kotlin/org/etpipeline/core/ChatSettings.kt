package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/**
 * What the user has set for one conversation; null where the model's own counts.
 *
 * @property systemPrompt empty: none, also where the model has one.
 * @property maxNewTokens longest answer in tokens.
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
) {
    /** The model's own sampling, with what was set in its place; what a file says beyond all bounds comes within them. */
    fun sampling(own: Sampling): Sampling = Sampling(
        temperature = temperature.within(TEMPERATURES) ?: own.temperature,
        topP = topP.within(TOP_PS) ?: own.topP,
        topK = topK?.coerceIn(TOP_KS) ?: own.topK,
        minP = minP.within(MIN_PS) ?: own.minP,
        repetitionPenalty = repetitionPenalty.within(REPETITION_PENALTIES) ?: own.repetitionPenalty,
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
        val LONGEST_ANSWERS = 16..4096
    }
}

private fun Float?.within(range: ClosedFloatingPointRange<Float>): Float? =
    this?.takeIf { it.isFinite() }?.coerceIn(range)
