package org.etpipeline.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject

/**
 * What `manifest.json` says, field by field as `et_pipeline/manifest/manifest.schema.json` describes it (there are the
 * units and meanings). Unknown fields are refused: a change of the fields raises [VERSION]. Earlier versions lack some
 * fields of the last, which all have a default.
 *
 * @property chatPart null if and only if the bundle embeds texts, as [embedding] says then; see [chat].
 */
@Serializable
data class Manifest(
    val format: String,
    val version: Int,
    val what: What,
    val files: Map<String, FileInfo>,
    val programs: List<Program>,
    val adapters: List<Adapter> = emptyList(),
    val tokenizer: Tokenizer,
    @SerialName("chat") val chatPart: Chat? = null,
    val embedding: Embedding? = null,
    val tasks: Map<String, Task> = emptyMap(),
    val memory: Memory,
    val quality: Quality,
    val speed: List<Speed> = emptyList(),
    val stages: Map<String, StageCost> = emptyMap(),
    val samples: List<Sample> = emptyList(),
) {
    /** How to talk with the model; only a bundle that does not embed has it. */
    val chat: Chat get() = checkNotNull(chatPart) { "a bundle that embeds texts cannot chat" }

    /** The signatures of its programs that the app calls. */
    val callable: List<String>
        get() = if (embedding == null) listOf(Program.TOKENS) else listOf(Program.TOKENS, Program.TOKENS_MASK)

    /** Bytes of all files. */
    val totalBytes: Long get() = files.values.sumOf { it.size }

    /** Memory that [program] needs; of the bundle as a whole if there is none. */
    fun memoryOf(program: Program?): Memory = program?.memory ?: memory

    /** Quality and verdict of [program]; of the bundle as a whole if there is none. */
    fun qualityOf(program: Program?): Quality = program?.quality ?: quality

    /** Speeds of [program]: the bundle's are those of the one that has no figures of its own. */
    fun speedOf(program: Program?): List<Speed> =
        if (program == null || (program.memory == null && program.quality == null)) speed else program.speed

    companion object {
        const val FORMAT = "et_pipeline.bundle"
        const val VERSION = 11
        const val TEXT_GENERATION = "text-generation"
        const val EMBEDDING = "embedding"
        const val FILE_NAME = "manifest.json"
        /** Far above any real manifest: a reader must not be made to load gigabytes of JSON. */
        const val MAX_BYTES = 16L shl 20
        /** Likewise far above any real bundle. */
        const val MAX_FILES = 1000
    }
}

@Serializable
data class Source(val source: String, val revision: String? = null, val files: Map<String, String>)

/** What was done to the source before it was quantized. */
@Serializable
data class Adaptation(
    val step: String,
    val files: Map<String, String> = emptyMap(),
    val figures: Map<String, JsonElement> = emptyMap(),
)

@Serializable
data class What(
    val task: String = Manifest.TEXT_GENERATION,
    val name: String,
    val family: String,
    val architecture: String,
    val parameters: Long,
    val licence: String? = null,
    val source: Source,
    val adaptation: List<Adaptation> = emptyList(),
    val tools: Map<String, String>,
    val settings: JsonObject,
    val created: String? = null,
)

@Serializable
data class FileInfo(val size: Long, val sha256: String)

@Serializable
data class Rounded(val weights: Long, val error: Double)

@Serializable
data class SourceQuantization(val form: String, val kept: Rounded? = null, val requantized: Rounded? = null)

@Serializable
data class Program(
    val file: String,
    val weights: List<String> = emptyList(),
    val backend: String,
    val recipe: String? = null,
    @SerialName("source_quantization") val sourceQuantization: SourceQuantization? = null,
    val soc: List<String> = emptyList(),
    val hexagon: String? = null,
    val methods: List<String>,
    val signature: String = TOKENS,
    @SerialName("max_context") val maxContext: Int,
    @SerialName("prefill_chunk") val prefillChunk: Int,
    @SerialName("adapter_rank") val adapterRank: Int = 0,
    @SerialName("goes_back") val goesBack: Boolean = true,
    @SerialName("min_runtime") val minRuntime: String,
    val qairt: String? = null,
    val notice: String? = null,
    val executed: Boolean,
    val twin: Boolean = false,
    val delegates: Int,
    @SerialName("delegated_operators") val delegatedOperators: Map<String, Int> = emptyMap(),
    @SerialName("fallback_operators") val fallbackOperators: Map<String, Int> = emptyMap(),
    @SerialName("fallback_reasons") val fallbackReasons: Map<String, String> = emptyMap(),
    val memory: Memory? = null,
    val quality: Quality? = null,
    val speed: List<Speed> = emptyList(),
    val stages: Map<String, StageCost> = emptyMap(),
) {
    companion object {
        /** Of language models, where the KV cache is inside the program, and of embeddings. */
        const val TOKENS = "tokens"

        /** Of embeddings: a text of fixed length, and which of its tokens are none. */
        const val TOKENS_MASK = "tokens_mask"
        val SIGNATURES = listOf(TOKENS, TOKENS_MASK, "tokens_cache")
    }
}

/** What makes another model of a program while it is loaded. */
@Serializable
data class Adapter(
    val name: String,
    val file: String,
    val program: String,
    val rank: Int,
    val base: String?,
    val source: Map<String, String>,
    val quality: AdapterQuality,
    val samples: List<Sample> = emptyList(),
    val about: String? = null,
)

@Serializable
data class AdapterQuality(val agreement: Agreement, val greedy: GreedyAgreement, val gate: Gate)

@Serializable
data class TokenizerParity(
    val runtime: String,
    val strings: Int,
    val mended: List<String> = emptyList(),
    val android: List<String> = emptyList(),
)

@Serializable
data class Tokenizer(
    val file: String,
    val kind: String = "hf-json",
    @SerialName("bos_id") val bosId: Long? = null,
    @SerialName("bos_token") val bosToken: String? = null,
    @SerialName("eos_ids") val eosIds: List<Long>,
    @SerialName("adds_bos") val addsBos: Boolean,
    @SerialName("special_tokens") val specialTokens: List<String> = emptyList(),
    val normalization: String? = null,
    val lstrip: List<String> = emptyList(),
    val rstrip: List<String> = emptyList(),
    val parity: TokenizerParity? = null,
) {
    companion object {
        val NORMALIZATIONS = listOf("NFC", "NFD", "NFKC", "NFKD")
    }
}

@Serializable
data class Sampling(
    val temperature: Float = 0f,
    @SerialName("top_p") val topP: Float = 1f,
    @SerialName("top_k") val topK: Int = 0,
    @SerialName("min_p") val minP: Float = 0f,
    @SerialName("repetition_penalty") val repetitionPenalty: Float = 1f,
)

@Serializable
data class Chat(
    val segments: ChatFormat,
    @SerialName("add_bos") val addBos: Boolean = false,
    @SerialName("stop_strings") val stopStrings: List<String> = emptyList(),
    val sampling: Sampling = Sampling(),
    @SerialName("system_prompt") val systemPrompt: String? = null,
    val thinking: Thinking? = null,
) {
    /** This chat with a model that is to think before it answers, or not: the same where the template has no switch. */
    fun thatThinks(wanted: Boolean?): Chat {
        val switch = thinking ?: return this
        return if (wanted == null || wanted == switch.default) this else copy(segments = switch.other)
    }
}

/** The switch that some templates have between thinking before the answer and answering at once. */
@Serializable
data class Thinking(val default: Boolean, val other: ChatFormat)

@Serializable
data class Task(
    val title: String,
    val template: String,
    @SerialName("max_new_tokens") val maxNewTokens: Int,
    val choices: Map<String, List<String>> = emptyMap(),
    val disclaimer: String? = null,
)

@Serializable
data class Memory(
    @SerialName("weights_bytes") val weightsBytes: Long,
    @SerialName("kv_cache_bytes") val kvCacheBytes: Long,
    @SerialName("resident_bytes") val residentBytes: Long,
    @SerialName("peak_bytes") val peakBytes: Long,
    @SerialName("min_device_ram_bytes") val minDeviceRamBytes: Long,
    val states: Map<String, Long> = emptyMap(),
    @SerialName("table_bytes") val tableBytes: Long = 0,
)

@Serializable
data class Agreement(
    val positions: Int,
    val cosine: Double,
    @SerialName("min_cosine") val minCosine: Double,
    @SerialName("max_abs_diff") val maxAbsDiff: Double,
    val kl: Double,
    val top1: Double,
    @SerialName("kl_interval") val klInterval: List<Double>? = null,
)

@Serializable
data class WaysOfFeeding(
    @SerialName("one_piece") val onePiece: Agreement,
    val chunked: Agreement,
    @SerialName("token_by_token") val tokenByToken: Agreement,
)

@Serializable
data class Comparison(val quantized: WaysOfFeeding, val original: WaysOfFeeding)

@Serializable
data class Perplexity(
    val original: Double,
    val deployed: Double,
    @SerialName("ratio_interval") val ratioInterval: List<Double>? = null,
)

@Serializable
data class GreedyAgreement(val prompts: Int, val equal: Int, val tokens: Long, val agreement: Double)

@Serializable
data class TextScore(
    val perplexity: Double,
    val kl: Double,
    val top1: Double,
    @SerialName("ratio_interval") val ratioInterval: List<Double>? = null,
    @SerialName("kl_interval") val klInterval: List<Double>? = null,
)

@Serializable
data class TextQuality(
    val source: String,
    val tokens: Long,
    val window: Int,
    val stride: Int,
    val original: Double,
    val quantized: TextScore,
    val deployed: TextScore? = null,
)

@Serializable
data class TaskScore(val original: Double, val deployed: Double, val items: Int)

@Serializable
data class Check(
    val name: String,
    val value: Double,
    val threshold: Double,
    val passed: Boolean,
    val interval: List<Double>? = null,
)

@Serializable
data class Gate(val thresholds: Map<String, Double>, val checks: List<Check>, val passed: Boolean)

@Serializable
data class Witness(
    val name: String,
    val version: String,
    val layers: List<Int>? = null,
    val agreement: JsonElement? = null, // an [Agreement] or an [EmbeddingAgreement]
    val note: String? = null,
) {
    companion object {
        val NAMES = listOf("transformers", "sentence-transformers", "llama.cpp", "gguf", "et_pipeline")
    }
}

/** How far the program of a model that was pruned or trained is from the model before that. */
@Serializable
data class Unadapted(val agreement: Agreement, val perplexity: Perplexity? = null)

@Serializable
data class Quality(
    val agreement: Comparison? = null,
    val embedding: EmbeddingComparison? = null,
    val greedy: GreedyAgreement? = null,
    val tasks: Map<String, TaskScore> = emptyMap(),
    val perplexity: Perplexity? = null,
    val text: TextQuality? = null,
    val witness: Witness? = null,
    val unadapted: Unadapted? = null,
    val gate: Gate,
)

@Serializable
data class Percentiles(val p10: Double, val p50: Double, val p90: Double)

@Serializable
data class Speed(
    val where: String,
    val threads: Int,
    @SerialName("prompt_tokens") val promptTokens: Int,
    @SerialName("decode_tokens") val decodeTokens: Int,
    @SerialName("load_ms") val loadMs: Percentiles,
    @SerialName("ttft_ms") val ttftMs: Percentiles,
    @SerialName("prefill_tok_s") val prefillTokS: Percentiles,
    @SerialName("decode_tok_s") val decodeTokS: Percentiles,
    @SerialName("program_rss_bytes") val programRssBytes: Long,
    @SerialName("peak_rss_bytes") val peakRssBytes: Long,
    val energy: Double? = null,
)

@Serializable
data class StageCost(
    @SerialName("wall_s") val wallS: Double,
    @SerialName("cpu_s") val cpuS: Double,
    @SerialName("peak_rss_bytes") val peakRssBytes: Long,
)

@Serializable
data class Sample(val task: String, val prompt: String, val answer: String)
