package org.etpipeline.engine

import java.io.File
import java.util.BitSet
import java.util.concurrent.atomic.AtomicLong
import org.etpipeline.core.Context
import org.etpipeline.core.EngineException
import org.etpipeline.core.Generation
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.Sampler
import org.etpipeline.core.Tokenizer as TokenizerInfo
import org.etpipeline.core.grammar.Constraint
import org.etpipeline.core.grammar.Vocabulary
import org.etpipeline.core.prepared
import org.etpipeline.core.tokenizer.TextStream
import org.etpipeline.core.tokenizer.Tokenizer

/**
 * An [LlmEngine] over ExecuTorch's `Module`, with a token loop, a tokenizer and sampling of its own: no byte of a text is
 * lost, and what a prompt has in common with the context is not fed again.
 *
 * It needs nothing of Android. What `Module` of ExecuTorch 1.3 does not say of itself, and what is done about it here:
 * - It is not made for several threads: one thread owns it, from loading to closing.
 * - Creating one replaces the process's thread pool: [OpenProgram] loads those that were there again. Then what was said
 *   is fed again, too, with the next prompt.
 * - It loads no weights that lie beside the program: [LlmModuleEngine] does.
 *
 * @param folder where the bundle's files are.
 * @param program of the bundle's manifest.
 * @param tokenizer of the bundle's manifest.
 * @param reach how many tokens a context can go back: [org.etpipeline.core.reachOf].
 * @param threads that the runtime computes with.
 */
class ModuleEngine(
    private val folder: File,
    private val program: Program,
    private val tokenizer: TokenizerInfo,
    reach: Int = 0,
    private val threads: Int = usualThreads(),
) : LlmEngine {
    private val thread = OwnThread()
    private val counter = AtomicLong()
    private val asked = AtomicLong() // generations that were asked for
    private val stopped = AtomicLong() // generations up to this one are to end
    private val endIds = tokenizer.eosIds.map { it.toInt() }.toSet()

    // The engine's thread only:
    private val context = Context(program.maxContext, reach)
    private var startsOver = true
    private var open: Open? = null

    private class Open(val program: LoadedProgram, val tokenizer: Tokenizer) {
        /** What a grammar needs to know of all tokens. */
        val vocabulary by lazy {
            Vocabulary(List(tokenizer.size) { if (tokenizer.isSpecial(it)) null else tokenizer.bytesOf(it) })
        }
    }

    override val takesGrammars: Boolean get() = true

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
        require(request.maxNewTokens > 0) { "nothing to do" }
        val ticket = asked.incrementAndGet()
        return thread.run {
            counter.incrementAndGet()
            val open = open ?: open()
            val started = System.nanoTime()
            open.program.used(onForgotten = context::forgotten) {
                answer(open, prompt, request, onPiece, started, ticket)
            }
        }
    }

    private fun answer(
        open: Open,
        prompt: String,
        request: GenerationRequest,
        onPiece: (String) -> Boolean,
        started: Long,
        ticket: Long,
    ): Generation {
        val goesOn = !startsOver && !context.unfed.isEmpty()
        require(prompt.isNotEmpty() || goesOn) { "there is nothing to go on with" }
        val ids = encode(open.tokenizer, prompt, request.addBos)
        val constraint = request.grammar?.constraint(open.vocabulary)
        val reused = context.take(ids, startsOver, roomFor(request, constraint))
        startsOver = false
        try {
            return Answering(open, request, constraint, onPiece) { stopped.get() >= ticket }.run(started, reused)
        } catch (error: EngineException) {
            forget()
            throw error
        }
    }

    override suspend fun countTokens(text: String): Int = thread.run {
        encode((open ?: open()).tokenizer, text, addBos = false).size
    }

    override fun stop() = stopped.set(asked.get())

    override suspend fun reset() = thread.run {
        counter.incrementAndGet()
        forget()
    }

    override suspend fun startOver() = thread.run {
        counter.incrementAndGet()
        startsOver = true
    }

    override fun close() {
        stop()
        thread.close {
            open?.program?.close()
            open = null
        }
    }

    private fun open(): Open {
        // Read first: a file that is no tokenizer is found before the program takes its time.
        val file = File(folder, tokenizer.file)
        if (!file.isFile) throw EngineException(Problem.MissingFile(file.name))
        val read = Tokenizer.read(file)
        val opened = Open(LoadedProgram(File(folder, program.file), threads, thread::isOpen), read)
        forget()
        open = opened
        return opened
    }

    private fun forget() {
        context.clear()
        startsOver = true
    }

    /** Tokens of the context that the prompt must leave for the answer. */
    private fun roomFor(request: GenerationRequest, constraint: Constraint?): Int {
        val wanted = if (request.leavesRoom) minOf(request.maxNewTokens, program.maxContext / 4) else 0
        val needed = constraint?.tokensToEnd ?: 0
        require(needed <= request.maxNewTokens) { "an answer of this grammar may take $needed tokens" }
        return maxOf(wanted, needed)
    }

    private fun encode(own: Tokenizer, prompt: String, addBos: Boolean): IntArray {
        val text = prepared(prompt, tokenizer.normalization, tokenizer.lstrip, tokenizer.rstrip)
        val ids = own.encode(text)
        val bos = tokenizer.bosId?.toInt()
        return if (addBos && bos != null) intArrayOf(bos) + ids else ids
    }

    /** One call of [generate]. */
    private inner class Answering(
        private val open: Open,
        private val request: GenerationRequest,
        private val constraint: Constraint?,
        private val onPiece: (String) -> Boolean,
        private val isStopped: () -> Boolean,
    ) {
        private val sampler = Sampler(request)
        private val stream = TextStream(open.tokenizer)
        private var wantsMore = true
        private var tokens = 0 // of the answer

        fun run(started: Long, reused: Int): Generation {
            val promptTokens = context.unfed.count()
            var logits = feed()
            val firstAt = System.nanoTime()
            var lastAt = firstAt
            var end = if (logits == null) Generation.End.STOPPED else null
            while (end == null) {
                val token = choose(checkNotNull(logits))
                lastAt = System.nanoTime()
                end = take(token)
                if (end == null) logits = feed()
                if (end == null && logits == null) end = Generation.End.STOPPED
            }
            if (wantsMore) show(stream.finish())
            return Generation(
                promptTokens = promptTokens,
                tokens = tokens,
                ttftMs = (firstAt - started) / 1e6,
                decodeMs = (lastAt - firstAt) / 1e6,
                end = end,
                reusedTokens = reused,
                goesOn = end != Generation.End.MODEL && !context.unfed.isEmpty(),
            )
        }

        /** The next token, which may be one that ends the answer; null: it is at its end. */
        private fun choose(logits: FloatArray): Int? {
            if (constraint == null) return sampler.next(logits, context.tokens, tokens)
            if (constraint.isDone) return null
            val left = minOf(request.maxNewTokens - tokens, program.maxContext + 1 - context.tokens.size)
            var allowed = constraint.mask(left)
            if (constraint.mayEnd) allowed = (allowed.clone() as BitSet).also { bits -> endIds.forEach(bits::set) }
            return sampler.next(logits, context.tokens, tokens, allowed)
        }

        /** Puts a token into the answer and returns why it ends with it, if it does. */
        private fun take(token: Int?): Generation.End? {
            if (token == null || token in endIds) {
                show(stream.finish() + (token?.let(open.tokenizer::bytesOf) ?: ByteArray(0)).decodeToString())
                return Generation.End.MODEL
            }
            constraint?.accept(token)
            tokens++
            context.add(token)
            show(stream.add(token))
            return when {
                !wantsMore || isStopped() -> Generation.End.STOPPED
                tokens == request.maxNewTokens -> Generation.End.LENGTH
                context.isFull -> Generation.End.CONTEXT
                else -> null
            }
        }

        private fun show(piece: String) {
            if (piece.isNotEmpty()) wantsMore = onPiece(piece) && wantsMore
        }

        /** Feeds what the context has more than the program; null if it was stopped before the end of that. */
        private fun feed(): FloatArray? {
            var logits: FloatArray? = null
            while (!context.unfed.isEmpty()) {
                if (isStopped()) return null
                val start = context.unfed.first
                val chunk = context.unfed.take(program.prefillChunk).map { context.tokens[it] }.toIntArray()
                logits = open.program.forward(chunk, start)
                context.fed(chunk.size)
            }
            return logits
        }
    }
}
