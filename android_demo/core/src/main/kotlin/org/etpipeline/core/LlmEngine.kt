package org.etpipeline.core

import java.io.File
import org.etpipeline.core.grammar.Grammar

/**
 * One loaded model and its context. Text goes in, text comes out; what was fed stays in the context from call to call.
 *
 * All suspending calls take turns on the engine's own thread. [stop] may come from any thread at any time.
 */
interface LlmEngine : AutoCloseable {
    /** Whether answers can be held to a grammar. */
    val takesGrammars: Boolean get() = false

    /** Grows with every [generate] and [reset]: whoever fed the context last sees by it whether it is still theirs. */
    val uses: Long

    /**
     * Loads the program; does nothing when it is loaded.
     *
     * @return milliseconds that loading took, 0 if it was loaded already.
     * @throws EngineException with [Problem] when the runtime refuses the files.
     */
    suspend fun load(): Long

    /**
     * Feeds [prompt] behind what the context holds and generates.
     *
     * @param prompt empty only where [Generation.goesOn] said so of what was generated last.
     * @param onPiece gets the text as it comes, special tokens included, on the engine's thread. It returns whether to
     *   go on: after the first `false` no further piece is delivered.
     * @throws EngineException [Problem.PromptTooLong] if the prompt does not fit into what is left of the context
     *   (nothing was fed then), or another problem, after which the context is empty.
     */
    suspend fun generate(prompt: String, request: GenerationRequest, onPiece: (String) -> Boolean): Generation

    /** How many tokens [text] has, at most; to know it before it is fed. */
    suspend fun countTokens(text: String): Int = text.encodeToByteArray().size

    /** Ends the running generation after the current token, also one that was asked for but has not begun yet. */
    fun stop()

    /** Empties the context. */
    suspend fun reset()

    /**
     * Lets the next prompt begin a text. What the context holds of its beginning may be kept, and is not fed again then;
     * an engine that cannot know what that is empties the context.
     */
    suspend fun startOver() = reset()

    /**
     * Computes with [adapter] from the next prompt on, or without any. What the context holds is of the one before, so
     * a change empties it; nothing is done where it is the one that counts already.
     *
     * @throws EngineException the file is missing, damaged or for another program; nothing was changed then.
     */
    suspend fun adapt(adapter: File?) = require(adapter == null) { "this engine takes no adapters" }

    /** Stops, then frees the model on the engine's thread; later calls throw [Problem.EngineClosed]. */
    override fun close()
}

/**
 * What to generate.
 *
 * @property maxNewTokens longest answer in tokens.
 * @property sampling how tokens are chosen; of it, `LlmModule` knows the temperature only.
 * @property addBos whether the begin-of-text token is put before the prompt.
 * @property seed with the same one the same is drawn again; null: each time something else.
 * @property frequencyPenalty taken from a token's logit for each time that it is in the answer.
 * @property presencePenalty taken from it once if it is in the answer.
 * @property logitBias added to the logits of tokens.
 * @property grammar what the answer is held to, by an engine that [LlmEngine.takesGrammars].
 * @property leavesRoom whether a prompt is too long that leaves no room for the answer, [maxNewTokens] or a quarter of
 *   the context; an engine that does not count tokens before it feeds them cannot know.
 */
data class GenerationRequest(
    val maxNewTokens: Int,
    val sampling: Sampling = Sampling(),
    val addBos: Boolean = false,
    val seed: Long? = null,
    val frequencyPenalty: Float = 0f,
    val presencePenalty: Float = 0f,
    val logitBias: Map<Int, Float> = emptyMap(),
    val grammar: Grammar? = null,
    val leavesRoom: Boolean = false,
) {
    constructor(maxNewTokens: Int, temperature: Float) : this(maxNewTokens, Sampling(temperature))
}

/**
 * What one generation did.
 *
 * @property promptTokens tokens that were fed for the prompt of this call only.
 * @property reusedTokens tokens of the prompt that the context held already, so that they were not fed.
 * @property tokens tokens of the answer, the end-of-text token not counted.
 * @property ttftMs milliseconds from the call until the first token was known.
 * @property decodeMs milliseconds from the first to the last token.
 * @property end why it ended.
 * @property unfed the last piece of text if it was delivered but not yet fed back into the context: the next prompt has
 *   to begin with it. Empty when the model ended the answer itself.
 * @property goesOn whether the answer goes on with an empty prompt: its last token is known, but was not fed.
 */
data class Generation(
    val promptTokens: Int,
    val tokens: Int,
    val ttftMs: Double,
    val decodeMs: Double,
    val end: End,
    val unfed: String = "",
    val reusedTokens: Int = 0,
    val goesOn: Boolean = false,
) {
    /** Prompt tokens per second. */
    val prefillTokensPerSecond: Double get() = if (ttftMs > 0) promptTokens * 1000 / ttftMs else 0.0

    /** Tokens per second after the first; 0 if there was only one. */
    val decodeTokensPerSecond: Double get() = if (tokens > 1 && decodeMs > 0) (tokens - 1) * 1000 / decodeMs else 0.0

    /** Why a generation ended. */
    enum class End { MODEL, LENGTH, CONTEXT, STOPPED }
}

/** A failure that the user can be told about. */
class EngineException(val problem: Problem, cause: Throwable? = null) : Exception(problem.toString(), cause)
