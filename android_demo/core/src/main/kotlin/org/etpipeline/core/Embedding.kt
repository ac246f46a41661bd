package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/** How a text becomes a vector, as the manifest of a bundle that embeds says it. */
@Serializable
data class Embedding(
    val dimension: Int,
    val dimensions: List<Int> = emptyList(),
    val prompts: Map<String, String> = emptyMap(),
    @SerialName("default_prompt") val defaultPrompt: String? = null,
    val pooling: String,
    val normalised: Boolean,
    @SerialName("max_tokens") val maxTokens: Int,
    val speed: List<EmbeddingSpeed> = emptyList(),
    val samples: List<Similarity> = emptyList(),
) {
    /** What goes before a text of this [use]. A model that was trained without such prompts has one for all, or none. */
    fun promptFor(use: TextUse): String =
        use.names.firstNotNullOfOrNull(prompts::get) ?: defaultPrompt?.let(prompts::get).orEmpty()

    companion object {
        val POOLINGS = listOf("mean", "cls", "lasttoken")
    }
}

/**
 * What a text is embedded for.
 *
 * @property names that models have for its prompt, the usual one first.
 */
enum class TextUse(val names: List<String>) {
    /** It is looked for. */
    QUERY(listOf("query")),

    /** It is to be found. */
    DOCUMENT(listOf("document", "passage", "corpus")),
}

/** A model that turns texts into vectors: the more alike two texts are, the smaller is the angle between theirs. */
interface Embedder : AutoCloseable {
    /** Most tokens that [embed] looks at, of a text for this [use]. */
    fun mostTokens(use: TextUse): Int

    /** How many of these a text has. */
    suspend fun countTokens(text: String): Int

    /**
     * The vector of [text], of length 1. What of it is beyond [mostTokens] is not looked at.
     *
     * @throws EngineException with [Problem] when the runtime refuses the files, or fails.
     */
    suspend fun embed(text: String, use: TextUse): FloatArray

    /** Frees the model after the call that runs; later ones throw [Problem.EngineClosed]. */
    override fun close()
}

/** How similar the deployed program finds two texts. */
@Serializable
data class Similarity(val first: String, val second: String, val cosine: Double)

@Serializable
data class EmbeddingSpeed(
    val where: String,
    val threads: Int,
    val tokens: Int,
    @SerialName("load_ms") val loadMs: Percentiles,
    @SerialName("text_ms") val textMs: Percentiles,
    @SerialName("program_rss_bytes") val programRssBytes: Long,
    @SerialName("peak_rss_bytes") val peakRssBytes: Long,
)

@Serializable
data class EmbeddingAgreement(
    val texts: Int,
    val cosine: Double,
    @SerialName("min_cosine") val minCosine: Double,
    @SerialName("max_abs_diff") val maxAbsDiff: Double,
    @SerialName("rank_correlation") val rankCorrelation: Double,
)

@Serializable
data class EmbeddingComparison(val quantized: EmbeddingAgreement, val original: EmbeddingAgreement)
