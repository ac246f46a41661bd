package org.etpipeline.core

import java.io.File

/**
 * An engine without a model: it keeps the context as a text, one token per character of a prompt and per piece of an
 * answer, and gives the answers that a test wrote.
 *
 * @param capacity characters that the context holds.
 */
internal class FakeEngine(private val capacity: Int = 1_000_000) : LlmEngine {
    /** Answers to come, in pieces. */
    val answers = ArrayDeque<List<String>>()

    /** Runs before each piece: a test can cancel, stop or fail there. */
    var beforePiece: suspend (index: Int) -> Unit = {}

    /** Called with the whole context whenever a prompt was fed. */
    var onFed: (String) -> Unit = {}

    /** All prompts that were fed. */
    val fed = mutableListOf<String>()
    val requests = mutableListOf<GenerationRequest>()
    var resets = 0
    var stops = 0
    var closed = false
    var loads = 0
    val context = StringBuilder()
    var adapter: File? = null
        private set

    override var uses = 0L
        private set

    @Volatile
    private var stopRequested = false

    override suspend fun load(): Long {
        loads++
        return 40L + loads
    }

    override suspend fun generate(
        prompt: String,
        request: GenerationRequest,
        onPiece: (String) -> Boolean,
    ): Generation {
        uses++
        stopRequested = false
        if (context.length + prompt.length >= capacity) throw EngineException(Problem.PromptTooLong)
        context.append(prompt)
        fed += prompt
        requests += request
        onFed(context.toString())
        val pieces = answers.removeFirstOrNull() ?: listOf("ok")
        var tokens = 0
        var end = Generation.End.MODEL
        var unfed = ""
        try {
            for ((index, piece) in pieces.withIndex()) {
                beforePiece(index)
                tokens++
                if (piece == END_TOKEN && index > 0) {
                    // Like the real one: the token that ends the answer is delivered, but neither counted nor fed. The
                    // first token of an answer is not looked at.
                    onPiece(piece)
                    tokens--
                    break
                }
                unfed = piece
                end = when {
                    !onPiece(piece) || stopRequested -> Generation.End.STOPPED
                    tokens == request.maxNewTokens -> Generation.End.LENGTH
                    context.length + piece.length >= capacity -> Generation.End.CONTEXT
                    else -> Generation.End.MODEL
                }
                if (end != Generation.End.MODEL) break
                context.append(piece)
                unfed = ""
            }
        } catch (error: Throwable) {
            context.clear()
            throw error
        }
        return Generation(prompt.length, tokens, 10.0 + prompt.length, 20.0 * tokens, end, unfed)
    }

    override fun stop() {
        stops++
        stopRequested = true
    }

    override suspend fun reset() {
        uses++
        resets++
        context.clear()
    }

    /** Of another adapter it begins to answer anew. */
    override suspend fun adapt(adapter: File?) {
        if (adapter == this.adapter) return
        this.adapter = adapter
        uses++
        context.clear()
    }

    override fun close() {
        closed = true
    }

    companion object {
        const val END_TOKEN = "<E>"
    }
}
