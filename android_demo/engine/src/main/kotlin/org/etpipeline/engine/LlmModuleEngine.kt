package org.etpipeline.engine

import java.io.File
import java.util.concurrent.atomic.AtomicLong
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
import org.etpipeline.core.prepared
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmGenerationConfig
import org.pytorch.executorch.extension.llm.LlmModule

/**
 * An [LlmEngine] over ExecuTorch's [LlmModule], for programs whose weights lie in a file beside them: `Module` of
 * ExecuTorch 1.3 loads none of those. For all others [ModuleEngine] does more.
 *
 * What [LlmModule] of ExecuTorch 1.3 does not say of itself, and what is done about it here:
 * - It is not made for several threads: one thread owns it, from loading to closing. Closing while it generates throws.
 * - `seqLen` is 128 unless set, `echo` is on, and `maxNewTokens` never reaches the native code: all are set here, and
 *   the budget is enforced by counting.
 * - The native runner forgets a `stop()` that comes before its second token: each further callback asks again.
 * - It puts no text, and says nothing, from the first byte that is no UTF-8 to the end of that generation.
 * - `numBos` puts nothing before a prompt: its text does.
 * - Loading a second program with `Module` or `LlmModule` replaces the process's thread pool: [OpenProgram] loads those
 *   that were there again. Then what was said is fed again, too, with the next prompt.
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
class LlmModuleEngine(
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
    private val thread = OwnThread()
    private val counter = AtomicLong()
    private val asked = AtomicLong() // generations that were asked for
    private val stopped = AtomicLong() // generations up to this one are to end

    @Volatile private var running: LlmModule? = null // stop() comes from another thread
    private var open: OpenLlmModule? = null // the engine's thread only
    private var position = 0 // tokens in the context, likewise
    private val said = StringBuilder() // the context's text, likewise
    private var loads = 0 // when it was fed, likewise
    private var adapters: AdapterSlot? = null // likewise

    override val uses: Long get() = counter.get()

    override suspend fun load(): Long = thread.run {
        if (open != null) return@run 0
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
        require(request.grammar == null) { "this runner shows no logits, so no answer can be held to a grammar" }
        val text = prepared(if (request.addBos) bosToken.orEmpty() + prompt else prompt, normalization, lstrip, rstrip)
        val ticket = asked.incrementAndGet()
        return thread.run {
            counter.incrementAndGet()
            val open = open ?: open()
            open.used { generateAgain(open, text, request, { stopped.get() >= ticket }, onPiece) }
        }
    }

    /** Feeds before [prompt] what was lost, if the program was loaded again since the last time. */
    private fun generateAgain(
        open: OpenLlmModule,
        prompt: String,
        request: GenerationRequest,
        isStopped: () -> Boolean,
        onPiece: (String) -> Boolean,
    ): Generation {
        val lost = if (loads == open.loads) "" else said.toString().also { forget() }
        loads = open.loads
        running = open.module
        try {
            return generate(open.module, lost + prompt, request, isStopped, onPiece)
        } catch (error: EngineException) {
            if (error.problem == Problem.PromptTooLong && lost.isNotEmpty()) { // nothing was fed
                said.append(lost)
                loads = 0
            }
            throw error
        } finally {
            running = null
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
        val answer = StringBuilder()
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
                        answer.append(piece)
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
            .temperature(request.sampling.temperature)
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
                empty()
                throw EngineException(Problem.EngineFailed(error.shortReason()), error)
            }
        }
        // The first token comes from the prompt, without a step.
        val steps = if (isFull) pieces - 1 else stats.getValue("generated_tokens").jsonPrimitive.int
        val promptTokens =
            if (isFull) maxContext - before - steps else stats.getValue("prompt_tokens").jsonPrimitive.int
        position = before + promptTokens + steps
        said.append(prompt).append(answer.removeSuffix(unfed))
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
            empty()
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

    override suspend fun reset() = thread.run {
        counter.incrementAndGet()
        empty()
    }

    override suspend fun adapt(adapter: File?): Unit = thread.run {
        if (slot == null) return@run require(adapter == null) { "without a slot it takes no adapters" }
        if (open == null) open()
        if (checkNotNull(adapters).put(adapter)) {
            counter.incrementAndGet()
            empty()
        }
    }

    override fun close() {
        stop()
        thread.close {
            open?.close()
            open = null
            slot?.delete()
        }
    }

    private fun empty() {
        open?.let { it.used { it.module.resetContext() } }
        forget()
    }

    private fun forget() {
        position = 0
        said.setLength(0)
    }

    private fun open(): OpenLlmModule {
        // Before the adapter's place is made: what is no program needs none.
        checkProgram(program)
        checkTokenizer(tokenizer)
        if (slot != null) adapters = AdapterSlot(checkNotNull(weights), slot)
        val opened = OpenLlmModule(program, tokenizer, adapters?.file ?: weights, thread::isOpen)
        forget()
        loads = opened.loads
        open = opened
        return opened
    }

    private companion object {
        const val INVALID_ARGUMENT = 18
    }
}
