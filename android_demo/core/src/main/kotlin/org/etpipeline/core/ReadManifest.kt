package org.etpipeline.core

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.longOrNull

private const val MAX_NAME_BYTES = 240 // what every file system takes
private val SHA_256 = Regex("[0-9a-f]{64}")
private val ADAPTER = Regex("[A-Za-z0-9][A-Za-z0-9._-]*")
private val DAY = Regex("[0-9]{4}-[0-9]{2}-[0-9]{2}.*", RegexOption.DOT_MATCHES_ALL)
private val CLASS = Regex(" for type with serial name '[^']*'")
private val STEPS = setOf("merge_lora", "prune_depth", "prune_width", "distill", "qat")
private val TASKS = listOf(Manifest.TEXT_GENERATION, Manifest.EMBEDDING)
private val STRICT = Json { encodeDefaults = true }

/** What Python's `isprintable` refuses in a file's name: control and format characters, line ends, odd spaces. */
private val UNPRINTABLE = setOf(
    CharCategory.CONTROL,
    CharCategory.FORMAT,
    CharCategory.SURROGATE,
    CharCategory.PRIVATE_USE,
    CharCategory.UNASSIGNED,
    CharCategory.LINE_SEPARATOR,
    CharCategory.PARAGRAPH_SEPARATOR,
    CharCategory.SPACE_SEPARATOR,
).map { it.value }.toSet()

/**
 * The manifest in the text of a `manifest.json`, with every rule of the format checked.
 *
 * The file comes from anywhere, so nothing is guessed: unknown fields, numbers in quotes and values out of range are
 * refused, as `et_pipeline` itself does.
 *
 * @throws BundleException [Problem.BadManifest] naming the first field that is wrong, [Problem.NewerManifest],
 *   or [Problem.UnsafePath] if a file of the manifest would lie outside the bundle.
 */
fun readManifest(text: String): Manifest {
    try {
        val tree = STRICT.parseToJsonElement(text)
        checkVersion(tree)
        // From the text once more, because only then do error messages tell the whole path to a field.
        val manifest = STRICT.decodeFromString(Manifest.serializer(), text)
        checkKinds(tree, STRICT.encodeToJsonElement(Manifest.serializer(), manifest), "")
        checkValues(manifest)
        return manifest
    } catch (error: SerializationException) {
        throw BundleException(Problem.BadManifest(oneLine(error.message)), error)
    } catch (error: IllegalArgumentException) { // what decoding throws besides, such as for a number out of range
        throw BundleException(Problem.BadManifest(oneLine(error.message)), error)
    } catch (_: StackOverflowError) {
        bad("manifest", "is nested too deeply")
    }
}

/**
 * Checks that a file's name inside a bundle is safe on every system: relative, `/` between its parts, no `..`.
 *
 * @throws BundleException [Problem.UnsafePath].
 */
fun checkName(name: String) {
    val isPlain = name.split('/').none { it.isEmpty() || it == "." || it == ".." }
    val isPrintable = name.codePoints().allMatch { it == ' '.code || Character.getType(it) !in UNPRINTABLE }
    val isOnDrive = name.getOrNull(1) == ':' // C:file, on Windows
    if (!isPlain || !isPrintable || isOnDrive || '\\' in name || name.toByteArray().size > MAX_NAME_BYTES) {
        throw BundleException(Problem.UnsafePath(name.take(MAX_NAME_BYTES)))
    }
}

private fun bad(field: String, what: String): Nothing = throw BundleException(Problem.BadManifest("$field $what"))

/** Without the name of the class: the path to the field, which comes last, must not be cut off. */
private fun oneLine(message: String?): String =
    message.orEmpty().lineSequence().first().replace(CLASS, "").trim().take(200).ifEmpty { "not readable" }

/** Before anything else: a newer manifest may differ in every other field. */
private fun checkVersion(tree: JsonElement) {
    val format = (tree as? JsonObject)?.get("format")
    if (format != JsonPrimitive(Manifest.FORMAT)) bad("format", "must be '${Manifest.FORMAT}'")
    val found = tree["version"]
    val number = (found as? JsonPrimitive)?.takeUnless { it.isString }?.longOrNull
    if (number != null && number > Manifest.VERSION) {
        throw BundleException(Problem.NewerManifest(number.toString(), Manifest.VERSION))
    }
    if (number == null || number < 1) bad("version", "must be 1 to ${Manifest.VERSION}")
}

/** The JSON library takes `"7"` for a number; here it is not. The read values tell what kind each must be. */
private fun checkKinds(found: JsonElement, read: JsonElement?, path: String) {
    when {
        found is JsonObject && read is JsonObject ->
            found.forEach { (key, value) -> checkKinds(value, read[key], "$path.$key".trimStart('.')) }
        found is JsonArray && read is JsonArray ->
            found.forEachIndexed { index, value -> checkKinds(value, read.getOrNull(index), "$path.$index") }
        found is JsonNull || read is JsonNull -> Unit
        found is JsonPrimitive && read is JsonPrimitive && found.isString != read.isString ->
            bad(path, if (read.isString) "must be a text" else "must not stand in quotes")
    }
}

private fun checkValues(manifest: Manifest) = with(manifest) {
    checkWhat(what)
    checkParts(this)
    checkFiles(this)
    programs.forEachIndexed { index, program -> checkProgram(program, "programs.$index") }
    adapters.forEachIndexed { index, adapter -> checkAdapter(adapter, this, "adapters.$index") }
    rule(adapters.distinctBy { it.name }.size == adapters.size, "adapters", "have a name twice")
    checkTokenizer(tokenizer)
    chatPart?.let(::checkChat)
    embedding?.let(::checkEmbedding)
    for ((name, task) in tasks) rule(task.maxNewTokens >= 1, "tasks.$name.max_new_tokens", "must be at least 1")
    checkMemory(memory, "memory")
    checkQuality(quality, "quality")
    speed.forEachIndexed { index, speed -> checkSpeed(speed, "speed.$index") }
    checkStages(stages, "stages")
    samples.forEachIndexed { index, sample -> rule(sample.task in tasks, "samples.$index.task", "is not in tasks") }
}

private const val NOT_NEGATIVE = "must not be negative"

private fun rule(holds: Boolean, field: String, what: String) {
    if (!holds) bad(field, what)
}

private fun checkHash(hash: String, field: String) =
    rule(SHA_256.matches(hash), field, "must be 64 lower-case hexadecimal digits")

private fun checkWhat(what: What) {
    rule(what.task in TASKS, "what.task", "must be one of ${TASKS.joinToString()}")
    rule(what.parameters >= 1, "what.parameters", "must be at least 1")
    rule(what.created?.let(DAY::matches) ?: true, "what.created", "must begin with a day such as 2025-01-31")
    for ((name, hash) in what.source.files) {
        checkName(name)
        checkHash(hash, "what.source.files.$name")
    }
    for (step in what.adaptation) {
        rule(step.step in STEPS, "what.adaptation.step", "is none of ${STEPS.joinToString()}")
        for ((name, hash) in step.files) {
            checkName(name)
            checkHash(hash, "what.adaptation.files.$name")
        }
        for ((name, figure) in step.figures) {
            val known = figure is JsonNull || (figure is JsonPrimitive && figure.booleanOrNull == null)
            rule(known, "what.adaptation.figures.$name", "is neither a number nor a text")
        }
    }
}

/** A model chats or embeds, and has what belongs to that. */
private fun checkParts(manifest: Manifest) = with(manifest) {
    val embeds = what.task == Manifest.EMBEDDING
    rule((chatPart == null) == embeds, "chat", "must be there unless what.task is '${Manifest.EMBEDDING}'")
    rule((embedding != null) == embeds, "embedding", "belongs to what.task '${Manifest.EMBEDDING}', and must be there")
    rule(embeds || quality.embedding == null, "quality.embedding", "belongs to what.task '${Manifest.EMBEDDING}'")
    if (!embeds) return@with
    val others = mapOf(
        "tasks" to tasks.isEmpty(), "samples" to samples.isEmpty(), "speed" to speed.isEmpty(),
        "quality.agreement" to (quality.agreement == null), "quality.text" to (quality.text == null),
    )
    for ((field, isMissing) in others) rule(isMissing, field, "belongs to what.task '${Manifest.TEXT_GENERATION}'")
}

private fun checkFiles(manifest: Manifest) {
    val files = manifest.files
    rule(files.size <= Manifest.MAX_FILES, "files", "are more than ${Manifest.MAX_FILES}")
    rule(Manifest.FILE_NAME !in files, "files", "must not list ${Manifest.FILE_NAME} itself")
    var total = 0L
    for ((name, file) in files) {
        checkName(name)
        checkHash(file.sha256, "files.$name.sha256")
        rule(file.size >= 0, "files.$name.size", NOT_NEGATIVE)
        rule(file.size <= Long.MAX_VALUE - total, "files.$name.size", "is too large")
        total += file.size
        for (parent in generateSequence(name.substringBeforeLast('/', "")) { it.substringBeforeLast('/', "") }
            .takeWhile { it.isNotEmpty() }) {
            rule(parent !in files && parent != Manifest.FILE_NAME, "files", "have '$parent' as file and as folder")
        }
    }
    rule(manifest.programs.isNotEmpty(), "programs", "must not be empty")
    val used = manifest.programs.flatMap { it.weights + it.file } + manifest.adapters.map { it.file }
    for (name in used + manifest.tokenizer.file) {
        rule(name in files, "files", "do not list '${name.take(MAX_NAME_BYTES)}', which is used")
    }
}

private fun checkProgram(program: Program, field: String) {
    rule(program.methods.isNotEmpty(), "$field.methods", "must not be empty")
    rule(program.signature in Program.SIGNATURES, "$field.signature", "must be one of ${Program.SIGNATURES.joinToString()}")
    program.sourceQuantization?.let {
        for ((name, rounded) in mapOf("kept" to it.kept, "requantized" to it.requantized)) {
            if (rounded == null) continue
            rule(rounded.weights >= 0, "$field.source_quantization.$name.weights", NOT_NEGATIVE)
            rule(rounded.error >= 0, "$field.source_quantization.$name.error", NOT_NEGATIVE)
        }
    }
    rule(program.maxContext >= 1, "$field.max_context", "must be at least 1")
    rule(program.prefillChunk >= 1, "$field.prefill_chunk", "must be at least 1")
    rule(program.adapterRank >= 0, "$field.adapter_rank", NOT_NEGATIVE)
    rule(program.adapterRank == 0 || program.weights.size == 1, "$field.weights", "must be one file, for adapters")
    rule(program.delegates >= 0, "$field.delegates", NOT_NEGATIVE)
    program.memory?.let { checkMemory(it, "$field.memory") }
    program.quality?.let { checkQuality(it, "$field.quality") }
    program.speed.forEachIndexed { index, speed -> checkSpeed(speed, "$field.speed.$index") }
    checkStages(program.stages, "$field.stages")
}

private fun checkAdapter(adapter: Adapter, manifest: Manifest, field: String) {
    rule(ADAPTER.matches(adapter.name), "$field.name", "is no name")
    val program = manifest.programs.find { it.file == adapter.program }
    rule(program != null && adapter.rank in 1..program.adapterRank, "$field.rank", "is not what a program takes")
    for ((name, hash) in adapter.source) {
        checkName(name)
        checkHash(hash, "$field.source.$name")
    }
    checkAgreement(adapter.quality.agreement, "$field.quality.agreement")
    checkGreedy(adapter.quality.greedy, "$field.quality.greedy")
    checkGate(adapter.quality.gate, "$field.quality.gate")
    adapter.samples.forEachIndexed { index, sample ->
        rule(sample.task in manifest.tasks, "$field.samples.$index.task", "is not in tasks")
    }
}

private fun checkStages(stages: Map<String, StageCost>, field: String) {
    for ((name, cost) in stages) {
        rule(cost.wallS >= 0, "$field.$name.wall_s", NOT_NEGATIVE)
        rule(cost.cpuS >= 0, "$field.$name.cpu_s", NOT_NEGATIVE)
        rule(cost.peakRssBytes >= 0, "$field.$name.peak_rss_bytes", NOT_NEGATIVE)
    }
}

private fun checkTokenizer(tokenizer: Tokenizer) {
    rule(tokenizer.kind == "hf-json", "tokenizer.kind", "must be 'hf-json'")
    rule((tokenizer.bosId ?: 0) >= 0, "tokenizer.bos_id", NOT_NEGATIVE)
    rule(tokenizer.eosIds.all { it >= 0 }, "tokenizer.eos_ids", NOT_NEGATIVE)
    rule(
        tokenizer.normalization?.let { it in Tokenizer.NORMALIZATIONS } ?: true,
        "tokenizer.normalization",
        "must be one of ${Tokenizer.NORMALIZATIONS.joinToString()}",
    )
    rule(tokenizer.lstrip.none { it.isEmpty() }, "tokenizer.lstrip", "must not be empty texts")
    rule(tokenizer.rstrip.none { it.isEmpty() }, "tokenizer.rstrip", "must not be empty texts")
    tokenizer.parity?.let { rule(it.strings >= 1, "tokenizer.parity.strings", "must be at least 1") }
}

private fun checkChat(chat: Chat) {
    rule(chat.stopStrings.none { it.isEmpty() }, "chat.stop_strings", "must not be empty texts")
    rule(chat.sampling.temperature >= 0, "chat.sampling.temperature", NOT_NEGATIVE)
    rule(chat.sampling.topP > 0 && chat.sampling.topP <= 1, "chat.sampling.top_p", "must be above 0 and at most 1")
    rule(chat.sampling.topK >= 0, "chat.sampling.top_k", NOT_NEGATIVE)
    rule(chat.sampling.minP >= 0 && chat.sampling.minP <= 1, "chat.sampling.min_p", "must be from 0 to 1")
    rule(chat.sampling.repetitionPenalty > 0, "chat.sampling.repetition_penalty", "must be above 0")
}

private fun checkEmbedding(embedding: Embedding) = with(embedding) {
    rule(dimension >= 1, "embedding.dimension", "must be at least 1")
    rule(dimensions.all { it in 1 until dimension }, "embedding.dimensions", "must lie between 0 and $dimension")
    rule(pooling in Embedding.POOLINGS, "embedding.pooling", "must be one of ${Embedding.POOLINGS.joinToString()}")
    rule(defaultPrompt == null || defaultPrompt in prompts, "embedding.default_prompt", "is not in prompts")
    rule(maxTokens >= 1, "embedding.max_tokens", "must be at least 1")
    speed.forEachIndexed { index, measured ->
        val field = "embedding.speed.$index"
        rule(measured.threads >= 1, "$field.threads", "must be at least 1")
        rule(measured.tokens >= 1, "$field.tokens", "must be at least 1")
        checkFigure(measured.loadMs, "$field.load_ms")
        checkFigure(measured.textMs, "$field.text_ms")
        rule(measured.programRssBytes >= 0, "$field.program_rss_bytes", NOT_NEGATIVE)
        rule(measured.peakRssBytes >= 0, "$field.peak_rss_bytes", NOT_NEGATIVE)
    }
    samples.forEachIndexed { index, sample -> checkCosine(sample.cosine, "embedding.samples.$index.cosine") }
}

private fun checkCosine(cosine: Double, field: String) = rule(cosine in -1.0..1.0, field, "must be -1 to 1")

private fun checkFigure(figure: Percentiles, field: String) =
    rule(figure.p10 >= 0 && figure.p50 >= 0 && figure.p90 >= 0, field, NOT_NEGATIVE)

private fun checkMemory(memory: Memory, field: String) {
    rule(memory.weightsBytes >= 0, "$field.weights_bytes", NOT_NEGATIVE)
    rule(memory.kvCacheBytes >= 0, "$field.kv_cache_bytes", NOT_NEGATIVE)
    rule(memory.residentBytes >= 0, "$field.resident_bytes", NOT_NEGATIVE)
    rule(memory.peakBytes >= 0, "$field.peak_bytes", NOT_NEGATIVE)
    rule(memory.minDeviceRamBytes >= 0, "$field.min_device_ram_bytes", NOT_NEGATIVE)
}

private fun checkQuality(quality: Quality, field: String) {
    quality.embedding?.let {
        checkAgreement(it.quantized, "$field.embedding.quantized")
        checkAgreement(it.original, "$field.embedding.original")
    }
    quality.agreement?.let {
        checkAgreement(it.quantized, "$field.agreement.quantized")
        checkAgreement(it.original, "$field.agreement.original")
    }
    quality.greedy?.let { checkGreedy(it, "$field.greedy") }
    for ((name, score) in quality.tasks) {
        rule(score.original in 0.0..100.0, "$field.tasks.$name.original", "must be 0 to 100")
        rule(score.deployed in 0.0..100.0, "$field.tasks.$name.deployed", "must be 0 to 100")
        rule(score.items >= 1, "$field.tasks.$name.items", "must be at least 1")
    }
    quality.unadapted?.let { checkAgreement(it.agreement, "$field.unadapted.agreement") }
    val perplexities = mapOf("perplexity" to quality.perplexity, "unadapted.perplexity" to quality.unadapted?.perplexity)
    for ((name, found) in perplexities) {
        if (found == null) continue
        rule(found.original > 0, "$field.$name.original", "must be above 0")
        rule(found.deployed > 0, "$field.$name.deployed", "must be above 0")
    }
    quality.text?.let {
        rule(it.tokens >= 1, "$field.text.tokens", "must be at least 1")
        rule(it.window >= 2, "$field.text.window", "must be at least 2")
        rule(it.stride >= 1, "$field.text.stride", "must be at least 1")
        rule(it.original > 0, "$field.text.original", "must be above 0")
        for ((name, score) in mapOf("quantized" to it.quantized, "deployed" to it.deployed)) {
            if (score == null) continue
            rule(score.perplexity > 0, "$field.text.$name.perplexity", "must be above 0")
            rule(score.top1 in 0.0..1.0, "$field.text.$name.top1", "must be 0 to 1")
        }
    }
    quality.witness?.let {
        rule(it.name in Witness.NAMES, "$field.witness.name", "must be one of ${Witness.NAMES.joinToString()}")
        it.agreement?.let { agreement -> checkEither(agreement, "$field.witness.agreement") }
    }
    checkGate(quality.gate, "$field.gate")
}

private fun checkGreedy(greedy: GreedyAgreement, field: String) {
    rule(greedy.prompts >= 1, "$field.prompts", "must be at least 1")
    rule(greedy.equal >= 0, "$field.equal", NOT_NEGATIVE)
    rule(greedy.tokens >= 0, "$field.tokens", NOT_NEGATIVE)
    rule(greedy.agreement in 0.0..1.0, "$field.agreement", "must be 0 to 1")
}

private fun checkGate(gate: Gate, field: String) =
    rule(gate.passed == gate.checks.all { it.passed }, "$field.passed", "contradicts the checks")

private fun checkAgreement(ways: WaysOfFeeding, field: String) {
    val named = mapOf("one_piece" to ways.onePiece, "chunked" to ways.chunked, "token_by_token" to ways.tokenByToken)
    for ((name, agreement) in named) checkAgreement(agreement, "$field.$name")
}

/** The figures of a model that chats or of one that embeds. */
private fun checkEither(agreement: JsonElement, field: String) {
    if (agreement is JsonObject && "texts" in agreement) {
        checkAgreement(STRICT.decodeFromJsonElement(EmbeddingAgreement.serializer(), agreement), field)
    } else {
        checkAgreement(STRICT.decodeFromJsonElement(Agreement.serializer(), agreement), field)
    }
}

private fun checkAgreement(agreement: EmbeddingAgreement, field: String) {
    rule(agreement.texts >= 2, "$field.texts", "must be at least 2")
    checkCosine(agreement.cosine, "$field.cosine")
    checkCosine(agreement.minCosine, "$field.min_cosine")
    rule(agreement.maxAbsDiff >= 0, "$field.max_abs_diff", NOT_NEGATIVE)
    rule(agreement.rankCorrelation in -1.0..1.0, "$field.rank_correlation", "must be -1 to 1")
}

private fun checkAgreement(agreement: Agreement, field: String) {
    rule(agreement.positions >= 1, "$field.positions", "must be at least 1")
    checkCosine(agreement.cosine, "$field.cosine")
    checkCosine(agreement.minCosine, "$field.min_cosine")
    rule(agreement.maxAbsDiff >= 0, "$field.max_abs_diff", NOT_NEGATIVE)
    rule(agreement.top1 in 0.0..1.0, "$field.top1", "must be 0 to 1")
}

private fun checkSpeed(speed: Speed, field: String) {
    rule(speed.threads >= 1, "$field.threads", "must be at least 1")
    rule(speed.promptTokens >= 1, "$field.prompt_tokens", "must be at least 1")
    rule(speed.decodeTokens >= 1, "$field.decode_tokens", "must be at least 1")
    val figures = mapOf(
        "load_ms" to speed.loadMs,
        "ttft_ms" to speed.ttftMs,
        "prefill_tok_s" to speed.prefillTokS,
        "decode_tok_s" to speed.decodeTokS,
    )
    for ((name, figure) in figures) checkFigure(figure, "$field.$name")
    rule(speed.programRssBytes >= 0, "$field.program_rss_bytes", NOT_NEGATIVE)
    rule(speed.peakRssBytes >= 0, "$field.peak_rss_bytes", NOT_NEGATIVE)
    rule((speed.energy ?: 0.0) >= 0, "$field.energy", NOT_NEGATIVE)
}
