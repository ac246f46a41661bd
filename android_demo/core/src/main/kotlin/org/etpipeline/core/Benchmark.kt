package org.etpipeline.core

import kotlin.math.abs
import kotlinx.coroutines.CancellationException
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json

private const val FILLER = "The quick brown fox jumps over the lazy dog. "
private val FILLER_WORDS = FILLER.trim().split(' ')
private const val MOST_TRIALS = 12 // for the prompt's length; each costs one prefill
private val REPORT_JSON = Json {
    prettyPrint = true
    prettyPrintIndent = "  "
    encodeDefaults = true
}

/**
 * What to measure.
 *
 * @property promptTokens wanted length of the prompt; at most half of the context is used.
 * @property decodeTokens wanted number of decode steps; fewer if the context is full before.
 * @property rounds how often the program is loaded and measured.
 * @property warmups how often each round feeds the prompt before it measures.
 */
data class BenchmarkPlan(
    val promptTokens: Int = 128,
    val decodeTokens: Int = 64,
    val rounds: Int = 5,
    val warmups: Int = 1,
) {
    init {
        require(promptTokens >= 1 && decodeTokens >= 1 && rounds >= 1 && warmups >= 0) { "nothing to measure: $this" }
    }
}

/** What is benchmarked, so that a report names it: the bundle's name, its program's file and that file's SHA-256. */
data class BenchmarkSubject(val bundle: String = "", val file: String = "", val sha256: String = "") {
    constructor(manifest: Manifest, program: Program) :
        this(manifest.what.name, program.file, manifest.files.getValue(program.file).sha256)
}

/** What a benchmark does at the moment. */
enum class Phase {
    LOAD,

    /** Searches, in the first round only, the text that has as many tokens as are wanted. */
    PREPARE,
    WARM_UP,
    MEASURE,
}

/**
 * State of the battery.
 *
 * @property chargeMicroAh what is in it, in millionths of an ampere hour.
 * @property plugged whether it is being charged, so that its charge tells nothing.
 */
data class BatteryReading(val chargeMicroAh: Long, val millivolts: Int, val plugged: Boolean)

/** Whether a phone of this thermal status, in the system's word, slows itself down. */
fun isHot(thermalStatus: String?): Boolean = thermalStatus in HOT

private val HOT = listOf("severe", "critical", "emergency", "shutdown")

/** What only the phone can tell a benchmark. */
interface PhoneProbe {
    /** The phone's model and system, for the report. */
    val name: String

    /** Threads that the runtime computes with. */
    val threads: Int

    /** Memory of this process now (proportional set size), in bytes. */
    fun pssBytes(): Long

    /** How hot the phone is, in the system's word; null if it does not tell. */
    fun thermalStatus(): String?

    /** Null if the phone has no charge counter. */
    fun battery(): BatteryReading?
}

/**
 * Figures of one round.
 *
 * @property thermal how hot the phone was at its end, in the system's word.
 * @property decodedTokens decode steps; the first token of an answer comes from the prompt and does not count.
 */
@Serializable
data class BenchmarkRound(
    @SerialName("load_ms") val loadMs: Double,
    @SerialName("prompt_tokens") val promptTokens: Int,
    @SerialName("ttft_ms") val ttftMs: Double,
    @SerialName("prefill_tok_s") val prefillTokS: Double,
    @SerialName("decoded_tokens") val decodedTokens: Int,
    @SerialName("decode_tok_s") val decodeTokS: Double,
    @SerialName("pss_bytes") val pssBytes: Long,
    val thermal: String? = null,
)

/**
 * A benchmark's result, for a file that leaves the phone.
 *
 * @property speed the summary, as a manifest's `speed` has it.
 * @property batteryMahPer1000Tokens charge for 1000 answer tokens, loading and prompts included; null if unknown.
 * @property battery whether that was measured, else why not: the name of a [BatteryUse].
 */
@Serializable
data class BenchmarkReport(
    val format: String = FORMAT,
    val version: Int = VERSION,
    val bundle: String,
    val file: String,
    val sha256: String,
    val speed: Speed,
    val rounds: List<BenchmarkRound>,
    @SerialName("thermal_before") val thermalBefore: String? = null,
    @SerialName("thermal_after") val thermalAfter: String? = null,
    @SerialName("battery_mah_per_1000_tokens") val batteryMahPer1000Tokens: Double? = null,
    val battery: String = BatteryUse.Unknown.name,
) {
    /** Whether the phone was so hot meanwhile that it slows itself down. */
    val wasHot: Boolean get() = (rounds.map { it.thermal } + thermalBefore + thermalAfter).any(::isHot)

    /** The text of the report's file. */
    fun toJson(): String = REPORT_JSON.encodeToString(serializer(), this) + "\n"

    companion object {
        const val FORMAT = "et_pipeline.benchmark"
        const val VERSION = 1
    }
}

/**
 * Loads, prefills and decodes again and again, each round with a new engine.
 *
 * @param newEngine makes an engine that has not loaded yet; it is closed at the end of its round.
 * @param maxContext of the program, in tokens.
 * @param onProgress gets the number of rounds that are done, of how many, and what is done now.
 * @throws EngineException if the engine fails, or the model ends every answer at once.
 * @throws CancellationException also when somebody stops the engine.
 */
suspend fun runBenchmark(
    newEngine: suspend () -> LlmEngine,
    plan: BenchmarkPlan,
    maxContext: Int,
    probe: PhoneProbe,
    subject: BenchmarkSubject = BenchmarkSubject(),
    onProgress: (done: Int, of: Int, phase: Phase) -> Unit = { _, _, _ -> },
): BenchmarkReport {
    val pssBefore = probe.pssBytes()
    val thermalBefore = probe.thermalStatus()
    val meter = BatteryMeter()
    var battery = probe.battery()
    val counter = TokenCounter()
    var prompt: String? = null
    val rounds = List(plan.rounds) { done ->
        newEngine().use { engine ->
            engine.stoppedOnCancel { isCancelled ->
                val run = Run(engine, counter, isCancelled)
                onProgress(done, plan.rounds, Phase.LOAD)
                val loadMs = engine.load().toDouble()
                if (prompt == null) onProgress(done, plan.rounds, Phase.PREPARE)
                val text = prompt ?: run.findPrompt(minOf(plan.promptTokens, maxOf(1, maxContext / 2)))
                prompt = text
                onProgress(done, plan.rounds, Phase.WARM_UP)
                repeat(plan.warmups) { run.fromStart(text, maxNewTokens = 2) }
                onProgress(done, plan.rounds, Phase.MEASURE)
                val round = run.measure(text, plan.decodeTokens).toRound(loadMs, probe)
                val now = probe.battery()
                meter.add(battery, now, counter.takeTokens())
                battery = now
                round
            }
        }
    }
    onProgress(plan.rounds, plan.rounds, Phase.MEASURE)
    if (rounds.any { it.decodedTokens == 0 }) {
        throw EngineException(Problem.EngineFailed("the model ends every answer at once"))
    }
    val used = meter.use
    val measured = used as? BatteryUse.Measured
    return BenchmarkReport(
        bundle = subject.bundle,
        file = subject.file,
        sha256 = subject.sha256,
        speed = Speed(
            where = probe.name,
            threads = probe.threads,
            promptTokens = rounds.first().promptTokens,
            decodeTokens = rounds.minOf { it.decodedTokens },
            loadMs = percentiles(rounds.map { it.loadMs }),
            ttftMs = percentiles(rounds.map { it.ttftMs }),
            prefillTokS = percentiles(rounds.map { it.prefillTokS }),
            decodeTokS = percentiles(rounds.map { it.decodeTokS }),
            programRssBytes = maxOf(0, rounds.maxOf { it.pssBytes } - pssBefore),
            peakRssBytes = maxOf(pssBefore, rounds.maxOf { it.pssBytes }),
            energy = measured?.joulesPerToken,
        ),
        rounds = rounds,
        thermalBefore = thermalBefore,
        thermalAfter = probe.thermalStatus(),
        batteryMahPer1000Tokens = measured?.mahPer1000Tokens,
        battery = used.name,
    )
}

/** 10th, 50th and 90th percentile, with linear interpolation like `numpy.percentile`. */
fun percentiles(values: List<Double>): Percentiles {
    require(values.isNotEmpty()) { "no values" }
    val sorted = values.sorted()
    fun percentile(share: Double): Double {
        val at = share * (sorted.size - 1)
        val below = at.toInt()
        val above = minOf(below + 1, sorted.size - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (at - below)
    }
    return Percentiles(percentile(0.1), percentile(0.5), percentile(0.9))
}

/** Answer tokens of all generations, measured or not: the battery does not know the difference. */
private class TokenCounter {
    private var tokens = 0L

    fun add(more: Int) {
        tokens += more
    }

    /** Those since the last time. */
    fun takeTokens(): Long = tokens.also { tokens = 0 }
}

/** What one round measured; prompt and decode are timed apart. */
private class Measured(val first: Generation, val decodedTokens: Int, val decodeMs: Double) {
    fun toRound(loadMs: Double, probe: PhoneProbe) = BenchmarkRound(
        loadMs = loadMs,
        promptTokens = first.promptTokens,
        ttftMs = first.ttftMs,
        prefillTokS = first.prefillTokensPerSecond,
        decodedTokens = decodedTokens,
        decodeTokS = if (decodeMs > 0) decodedTokens * 1000 / decodeMs else 0.0,
        pssBytes = probe.pssBytes(),
        thermal = probe.thermalStatus(),
    )
}

/** Generations of one loaded engine. */
private class Run(
    private val engine: LlmEngine,
    private val counter: TokenCounter,
    private val isCancelled: () -> Boolean,
) {
    suspend fun fromStart(prompt: String, maxNewTokens: Int): Generation {
        engine.reset()
        return goOn(prompt, maxNewTokens)
    }

    private suspend fun goOn(prompt: String, maxNewTokens: Int): Generation {
        checkCancelled()
        val generation = engine.generate(prompt, GenerationRequest(maxNewTokens)) { !isCancelled() }
        counter.add(generation.tokens)
        checkCancelled()
        if (generation.end == Generation.End.STOPPED) throw CancellationException("the engine was stopped")
        return generation
    }

    /**
     * Feeds the prompt and decodes. The runtime stops at the end token and has no setting against it, so a model that
     * ends early is asked on from where it stands until enough is decoded or the context is full.
     */
    suspend fun measure(prompt: String, decodeTokens: Int): Measured {
        // One more than decode steps: the first token comes from the prompt.
        val first = fromStart(prompt, decodeTokens + 1)
        var decoded = maxOf(0, first.tokens - 1)
        var decodeMs = first.decodeMs
        var end = first.end
        while (end == Generation.End.MODEL && decoded < decodeTokens) {
            val next = unlessTooLong { goOn(FILLER, decodeTokens - decoded + 1) } ?: break
            decoded += maxOf(0, next.tokens - 1)
            decodeMs += next.decodeMs
            end = next.end
        }
        return Measured(first, decoded, decodeMs)
    }

    /** The text of as nearly [wanted] tokens as words allow. There is no tokenizer here but the engine's own. */
    suspend fun findPrompt(wanted: Int): String {
        val counts = HashMap<Int, Int>()
        suspend fun count(words: Int): Int = counts.getOrPut(words) {
            unlessTooLong { fromStart(text(words), maxNewTokens = 1) }?.promptTokens ?: Int.MAX_VALUE
        }
        var low = 0 // fewer tokens than wanted
        var high = Int.MAX_VALUE // more
        var words = wanted
        while (counts.size < MOST_TRIALS && high - low > 1) {
            val found = count(words)
            if (found == wanted) return text(words)
            if (found < wanted) low = words else high = words
            // A word has about the same number of tokens everywhere in the text.
            val guess = if (found == Int.MAX_VALUE) words / 2 else (words.toLong() * wanted / maxOf(found, 1)).toInt()
            words = guess.coerceIn(low + 1, maxOf(low + 1, high - 1))
        }
        return text(counts.minWith(compareBy({ abs(it.value.toLong() - wanted) }, { it.key })).key)
    }

    private fun text(words: Int): String = (0 until words).joinToString(" ") { FILLER_WORDS[it % FILLER_WORDS.size] }

    private fun checkCancelled() {
        if (isCancelled()) throw CancellationException("the benchmark was cancelled")
    }
}
