package org.etpipeline.demo.engine

import java.io.File
import java.io.Reader
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.text.Normalizer
import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import java.util.concurrent.atomic.AtomicLong
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.withContext
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.EngineException
import org.etpipeline.core.Generation
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Problem
import org.pytorch.executorch.ExecuTorchRuntime
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmGenerationConfig
import org.pytorch.executorch.extension.llm.LlmModule
import org.pytorch.executorch.extension.llm.LlmModuleConfig

/** ExecuTorch's version inside the app: what a manifest's `min_runtime` is compared with. */
const val RUNTIME_VERSION = "1.3.1"

/** Version of Qualcomm's QAIRT libraries inside the app, such as `v2.49.40`; null: this app has none. */
val QAIRT_VERSION: String? = null

/**
 * An [LlmEngine] over ExecuTorch's [LlmModule]. It needs nothing of Android: copy it, with core, into your own app.
 *
 * What [LlmModule] of ExecuTorch 1.3 does not say of itself, and what is done about it here:
 * - It is not made for several threads: one thread owns it, from loading to closing. Closing while it generates throws.
 * - `seqLen` is 128 unless set, `echo` is on, and `maxNewTokens` never reaches the native code: all are set here, and
 *   the budget is enforced by counting.
 * - The native runner forgets a `stop()` that comes before its second token: each further callback asks again.
 * - It puts no text, and says nothing, from the first byte that is no UTF-8 to the end of that generation.
 * - `numBos` puts nothing before a prompt: its text does.
 * - `LlmModuleConfig.dataPath` is "" unless set, and loading fails then.
 * - Loading a second program with `Module` or `LlmModule` replaces the process's thread pool, and a model that was
 *   loaded before crashes at its next token: one engine at a time, in a process.
 *
 * @param program the `.pte` file.
 * @param tokenizer its `tokenizer.json`.
 * @param maxContext length of the context in tokens, as the manifest says.
 * @param specialTokens of the manifest's tokenizer: an answer that the model ends itself ends with one.
 * @param weights the `.ptd` file with the program's weights, if they are not in the program.
 * @param bosToken of the manifest's tokenizer: the text that begins a prompt which asks for it; null, in bundles of
 *   older versions: none does, as before.
 * @param normalization of the manifest's tokenizer: Unicode's form of prompts that its file leaves to the caller.
 * @param lstrip of the manifest's tokenizer: tokens before which white space of a prompt is left out.
 * @param rstrip of the manifest's tokenizer: tokens behind which it is.
 * @param slot of a program that takes adapters: a file of the app's own, which this engine makes, for [adapt].
 */
class ExecuTorchEngine(
    private val program: File,
    private val tokenizer: File,
    private val maxContext: Int,
    private val specialTokens: Collection<String> = emptyList(),
    private val weights: File? = null,
    private val bosToken: String? = null,
    private val normalization: String? = null,
    private val lstrip: List<String> = emptyList(),
    private val rstrip: List<String> = emptyList(),
    private val slot: File? = null,
) : LlmEngine {
    private val thread = Executors.newSingleThreadExecutor { Thread(it, "llm") }
    private val dispatcher = thread.asCoroutineDispatcher()
    private val counter = AtomicLong()
    private val asked = AtomicLong() // generations that were asked for
    private val stopped = AtomicLong() // generations up to this one are to end

    @Volatile private var isClosed = false
    @Volatile private var running: LlmModule? = null // stop() comes from another thread
    private var module: LlmModule? = null // the engine's thread only
    private var position = 0 // tokens in the context
    private var adapters: AdapterSlot? = null // likewise

    override val uses: Long get() = counter.get()

    /** The prompt as the tokenizer's file wants it. */
    private fun prepared(prompt: String): String {
        var text = prompt
        for (token in lstrip) {
            val parts = text.split(token)
            text = (parts.dropLast(1).map { it.trimEnd(*WHITE_SPACE) } + parts.last()).joinToString(token)
        }
        for (token in rstrip) {
            val parts = text.split(token)
            text = (parts.take(1) + parts.drop(1).map { it.trimStart(*WHITE_SPACE) }).joinToString(token)
        }
        return normalization?.let { Normalizer.normalize(text, Normalizer.Form.valueOf(it)) } ?: text
    }

    override suspend fun load(): Long = onThread {
        if (module != null) return@onThread 0
        val started = System.nanoTime()
        open()
        (System.nanoTime() - started) / 1_000_000
    }

    override suspend fun generate(
        prompt: String,
        request: GenerationRequest,
        onPiece: (String) -> Boolean,
    ): Generation {
        require(prompt.isNotEmpty() && request.maxNewTokens > 0) { "nothing to do" }
        val text = prepared(if (request.addBos) bosToken.orEmpty() + prompt else prompt)
        val ticket = asked.incrementAndGet()
        return onThread {
            counter.incrementAndGet()
            val open = module ?: open()
            running = open
            try {
                generate(open, text, request, { stopped.get() >= ticket }, onPiece)
            } finally {
                running = null
            }
        }
    }

    private fun generate(
        module: LlmModule,
        prompt: String,
        request: GenerationRequest,
        isStopped: () -> Boolean,
        onPiece: (String) -> Boolean,
    ): Generation {
        var pieces = 0
        var isEnough = false // the last wanted piece has come
        var unfed = ""
        var stats = JsonObject(emptyMap())
        var thrown: Throwable? = null
        var firstAt = 0L
        var lastAt = 0L
        val callback = object : LlmCallback {
            override fun onResult(piece: String) {
                lastAt = System.nanoTime()
                if (pieces++ == 0) firstAt = lastAt
                unfed = ""
                if (!isEnough && !isStopped()) {
                    try {
                        isEnough = !onPiece(piece)
                        unfed = piece
                    } catch (error: Throwable) { // must not cross native code
                        thrown = error
                        isEnough = true
                    }
                    if (pieces >= request.maxNewTokens) isEnough = true
                }
                if (isEnough || isStopped()) module.stop()
            }

            override fun onStats(statistics: String) {
                stats = Json.parseToJsonElement(statistics).jsonObject
            }
        }
        // A prompt has at most as many tokens as bytes. Whether the runner counts the prompt into seqLen differs between
        // versions; it matters only when text is withheld, and counting pieces cannot end the answer.
        val most = minOf(maxContext, request.maxNewTokens + prompt.encodeToByteArray().size + 1)
        val config = LlmGenerationConfig.create()
            .echo(false)
            .seqLen(most)
            .temperature(request.temperature)
            .numBos(0)
            .numEos(0)
            .build()
        val before = position
        if (before >= maxContext) throw EngineException(Problem.PromptTooLong)
        var isFull = false
        val started = System.nanoTime()
        try {
            module.generate(prompt, config, callback)
        } catch (error: RuntimeException) {
            // The runner refuses a prompt that does not fit before it feeds any of it. Behind the end of the context
            // the program refuses a token with the same code; no statistics come then.
            val isRefused = (error as? ExecutorchRuntimeException)?.errorCode == INVALID_ARGUMENT
            if (isRefused && pieces == 0) throw EngineException(Problem.PromptTooLong, error)
            isFull = isRefused && before + prompt.length + pieces > maxContext
            if (!isFull) {
                empty(module)
                throw EngineException(Problem.EngineFailed(error.shortReason()), error)
            }
        }
        // The first token comes from the prompt, without a step.
        val steps = if (isFull) pieces - 1 else stats.getValue("generated_tokens").jsonPrimitive.int
        val promptTokens =
            if (isFull) maxContext - before - steps else stats.getValue("prompt_tokens").jsonPrimitive.int
        position = before + promptTokens + steps
        thrown?.let { throw it }

        val end = when {
            unfed in specialTokens -> Generation.End.MODEL // whatever else has happened meanwhile
            isEnough && pieces >= request.maxNewTokens -> Generation.End.LENGTH
            isEnough || isStopped() -> Generation.End.STOPPED
            isFull || position + 1 >= maxContext -> Generation.End.CONTEXT
            steps + 1 >= most -> Generation.End.LENGTH
            else -> Generation.End.MODEL
        }
        val isExplained = when (end) {
            Generation.End.MODEL -> specialTokens.isEmpty() || unfed in specialTokens
            Generation.End.LENGTH -> pieces >= request.maxNewTokens
            else -> true
        }
        if (!isExplained) {
            empty(module)
            throw EngineException(Problem.BrokenText)
        }
        return Generation(
            promptTokens = promptTokens,
            tokens = if (end == Generation.End.MODEL) steps else steps + 1,
            ttftMs = (firstAt - started) / 1e6,
            decodeMs = (lastAt - firstAt) / 1e6,
            end = end,
            unfed = if (end == Generation.End.MODEL) "" else unfed,
        )
    }

    override fun stop() {
        stopped.set(asked.get())
        running?.stop()
    }

    override suspend fun reset() = onThread {
        counter.incrementAndGet()
        module?.let(::empty)
        Unit
    }

    /**
     * Goes on with [adapter], a file of the bundle's `adapters`, or without any; empties the context, for what it holds
     * is of the one before. The program must be loaded.
     *
     * @throws EngineException the file is missing, broken or for another program; nothing was changed then.
     */
    suspend fun adapt(adapter: File?) = onThread {
        counter.incrementAndGet()
        checkNotNull(adapters) { "the program takes no adapters, or is not loaded" }.put(adapter)
        module?.let(::empty)
        Unit
    }

    override fun close() {
        if (isClosed) return
        stop()
        isClosed = true
        thread.execute {
            module?.close()
            module = null
            slot?.delete()
        }
        thread.shutdown()
    }

    private fun empty(module: LlmModule) {
        module.resetContext()
        position = 0
    }

    private fun open(): LlmModule {
        checkProgram(program)
        checkTokenizer(tokenizer)
        weights?.let(::checkWeights)
        if (slot != null) adapters = AdapterSlot(checkNotNull(weights), slot)
        val config = LlmModuleConfig.create()
            .modulePath(program.path)
            .tokenizerPath(tokenizer.path)
            .temperature(-1f) // below zero: the one of each generation counts
            .dataPath((adapters?.file ?: weights)?.path)
            .loadMode(LlmModuleConfig.LOAD_MODE_MMAP) // what is read into memory is a copy, which nothing changes
            .build()
        val opened = try {
            LlmModule(config)
        } catch (error: RuntimeException) {
            // Of the program only its header has been read, and that was checked above.
            throw EngineException(Problem.BadTokenizer(tokenizer.name), error)
        }
        try {
            opened.load()
        } catch (error: RuntimeException) {
            opened.close()
            throw EngineException(problemOf(error), error)
        }
        position = 0
        module = opened
        return opened
    }

    /** A runner that is not even created means the tokenizer, for the same reason. */
    private fun problemOf(error: RuntimeException): Problem =
        if ("runner was not created" in error.message.orEmpty()) {
            Problem.BadTokenizer(tokenizer.name)
        } else {
            Problem.BadProgram(error.shortReason())
        }

    private suspend fun <T> onThread(block: () -> T): T {
        if (isClosed) throw EngineException(Problem.EngineClosed)
        return try {
            withContext(dispatcher) {
                if (isClosed) throw EngineException(Problem.EngineClosed)
                block()
            }
        } catch (error: RejectedExecutionException) {
            throw EngineException(Problem.EngineClosed, error)
        }
    }

    private companion object {
        const val INVALID_ARGUMENT = 18

        /** Unicode's White_Space: what Hugging Face's tokenizers leave out beside such tokens. */
        val WHITE_SPACE = ("\t\n\u000b\u000c\r \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000".toList() +
            ('\u2000'..'\u200a')).toCharArray()
    }
}

/** Delegates that are built into the app's runtime, in the manifest's words; `portable` needs none. */
fun executorchBackends(): List<String> =
    ExecuTorchRuntime.getRegisteredBackends().mapNotNull { DELEGATES[it] } + "portable"

private val DELEGATES = mapOf("XnnpackBackend" to "xnnpack", "VulkanBackend" to "vulkan", "QnnBackend" to "qnn")

private const val HEADER_BYTES = 40
internal const val WEIGHTS_HEADER_BYTES = 48
internal const val WEIGHTS_NAMES = "FT01FH01"
internal const val NUMBERS_AT = 32

/**
 * Checks that a file is a whole ExecuTorch program. The runtime itself notices a missing end only when it comes to the
 * weights there, and then in words that help nobody.
 *
 * The header: 4 bytes of FlatBuffers, "ET12", "eh00", its own length, then three 64-bit little-endian numbers: size of
 * the program, where the weights begin, and how many bytes they are.
 */
private fun checkProgram(file: File) {
    val header = header(file, HEADER_BYTES, "ET12eh00")
        ?: throw EngineException(Problem.BadProgram("it does not begin as one"))
    val end = maxOf(header.getLong(16), header.getLong(24) + header.getLong(32))
    if (end > file.length()) throw EngineException(Problem.BadProgram("its end is missing"))
}

/**
 * Checks that a file holds a program's weights, whole: what lies beyond its end would be read.
 *
 * The header: 4 bytes of FlatBuffers, "FT01", "FH01", its own length, then four 64-bit little-endian numbers: where the
 * index begins and its size, where the weights begin and how many bytes they are.
 */
internal fun checkWeights(file: File) {
    val header = header(file, WEIGHTS_HEADER_BYTES, WEIGHTS_NAMES)
        ?: throw EngineException(Problem.BadProgram("its weights do not begin as such"))
    if (header.getLong(NUMBERS_AT) + header.getLong(NUMBERS_AT + 8) > file.length()) {
        throw EngineException(Problem.BadProgram("the end of its weights is missing"))
    }
}

/** A file's first bytes, or null if it is shorter or does not begin with the names of its format. */
internal fun header(file: File, bytes: Int, names: String): ByteBuffer? {
    if (!file.isFile) throw EngineException(Problem.MissingFile(file.name))
    val header = ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN)
    val read = file.inputStream().use { it.read(header.array()) }
    return header.takeIf { read == bytes && String(it.array(), 4, names.length, Charsets.ISO_8859_1) == names }
}

/**
 * Checks that a file can be a Hugging Face tokenizer. The runtime tries one format after the other on what it cannot
 * read, and takes the bytes of a text for sizes.
 */
private fun checkTokenizer(file: File) {
    if (!file.isFile) throw EngineException(Problem.MissingFile(file.name))
    val looksRight = file.bufferedReader(Charsets.ISO_8859_1).use { reader ->
        generateSequence { reader.read().takeIf { it >= 0 } }.firstOrNull { !it.toChar().isWhitespace() } == '{'.code &&
            reader.contains("\"vocab\"")
    }
    if (!looksRight) throw EngineException(Problem.BadTokenizer(file.name))
}

/** Whether [text] comes somewhere, without holding more than a block of what is read. */
private fun Reader.contains(text: String): Boolean {
    val block = CharArray(1 shl 16)
    var tail = ""
    while (true) {
        val count = read(block)
        if (count < 0) return false
        val window = tail + String(block, 0, count)
        if (text in window) return true
        tail = window.takeLast(text.length - 1)
    }
}

/** The runtime's own words, without its decoration and path names. */
private fun Throwable.shortReason(): String =
    message.orEmpty()
        .lineSequence().first().substringAfter("] ").take(120).trim().trimEnd('.').ifEmpty { javaClass.simpleName }
