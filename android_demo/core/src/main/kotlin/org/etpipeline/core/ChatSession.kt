package org.etpipeline.core

import java.io.File
import java.util.Collections
import java.util.WeakHashMap
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.etpipeline.core.grammar.Grammar

/** One per engine: emptying the context and feeding it are two calls, and no other session may come between them. */
private val turns: MutableMap<LlmEngine, Mutex> = Collections.synchronizedMap(WeakHashMap())

/**
 * One conversation over an engine: what is fed, what is shown, when an answer ends.
 *
 * The context keeps what was said, so only the new turn is fed. All of it is fed again, by itself, when the context
 * holds something else: another session used the engine, the conversation was rewound, or an answer left text in the
 * context that was not shown. When the context is full, the oldest turns are left out of what is fed. What a model
 * thought stands between `<think>` and `</think>` at the beginning of its answer; it is not fed again with later turns.
 *
 * Any number of sessions can share an engine; they wait for each other. To end an answer, cancel the coroutine or call
 * [LlmEngine.stop]: what was shown so far stays as the answer.
 *
 * @property chat of the bundle's manifest.
 * @param specialTokens of the manifest's tokenizer: texts that are never shown.
 * @param messages of a conversation to go on with, user and assistant in turn.
 * @param systemPrompt is ignored by models that take none.
 * @property adapter what makes another model of the engine's program for this conversation; null: nothing.
 */
class ChatSession(
    private val engine: LlmEngine,
    val chat: Chat,
    private val specialTokens: List<String>,
    messages: List<Message> = emptyList(),
    val systemPrompt: String? = chat.systemPrompt,
    val adapter: File? = null,
) {
    /** Everything that was said, as it was shown. It begins with the user, and user and assistant take turns. */
    @Volatile
    var messages: List<Message> = messages.toList()
        private set

    /** The special token with which the template ends an answer. */
    private val endToken: String? = chat.segments.assistantToUser.trimStart().let { text ->
        specialTokens.filter { it.isNotEmpty() && text.startsWith(it) }.maxByOrNull { it.length }
    }

    private val hidden = specialTokens - setOf(THOUGHT_BEGINS, THOUGHT_ENDS)

    /** [LlmEngine.uses] when the context held exactly [messages] but for [unfed]; null: it holds something else. */
    private var ownUse: Long? = null

    /** Likewise, when it ended with the last answer as it was shown, so that the model can go on with it. */
    private var cutUse: Long? = null
    private var unfed = ""

    /** Oldest turns (question and answer) that are not fed any more. */
    private var droppedTurns = 0

    /** After the context was full: how many characters to feed again at most, so that there is room for an answer. */
    private var feedAtMost: Int? = null

    @Volatile
    private var isAnswering = false

    init {
        require(messages.withIndex().all { (i, m) -> m.role == if (i % 2 == 0) Role.USER else Role.ASSISTANT }) {
            "user and assistant take turns"
        }
    }

    /**
     * Says [text] and returns the answer. If the last question has no answer, [text] takes its place.
     *
     * @param text not blank.
     * @param request how; its grammar counts where the engine can, and what begins a text is settled here.
     * @param onText gets the answer's text as it comes, mostly on the engine's thread: hand it over, do not wait.
     * @throws EngineException if the engine fails. An answer that had begun stays in [messages], else they are as they
     *   were before. [Problem.PromptTooLong]: not even [text] alone fits into the context.
     */
    suspend fun ask(text: String, request: GenerationRequest, onText: (String) -> Unit = {}): Answer {
        require(text.isNotBlank()) { "the message is blank" }
        return inTurn(request.copy(grammar = request.grammar.takeIf { engine.takesGrammars }), onText) {
            messages.take(messages.size / 2 * 2) + Message(Role.USER, text)
        }
    }

    /** The same, with all else of a request as it is by default. */
    suspend fun ask(
        text: String,
        maxNewTokens: Int,
        sampling: Sampling = chat.sampling,
        grammar: Grammar? = null,
        onText: (String) -> Unit = {},
    ): Answer = ask(text, GenerationRequest(maxNewTokens, sampling, grammar = grammar), onText)

    /**
     * Answers the last question again, in place of the answer that it has. At temperature 0 the answer is the same.
     *
     * Parameters and exceptions are those of [ask].
     */
    suspend fun regenerate(
        maxNewTokens: Int,
        sampling: Sampling = chat.sampling,
        onText: (String) -> Unit = {},
    ): Answer = inTurn(GenerationRequest(maxNewTokens, sampling), onText) {
        val question = messages.indexOfLast { it.role == Role.USER }
        check(question >= 0) { "there is no question" }
        ownUse = null
        messages.take(question + 1)
    }

    /**
     * Goes on with the last answer from where it was cut. Half a character at its end is written anew.
     *
     * Parameters and exceptions are those of [ask]; [onText] gets what is new.
     *
     * @return the whole answer, with what the new part of it took. [Problem.PromptTooLong]: question and answer alone
     *   fill the context.
     */
    suspend fun goOn(request: GenerationRequest, onText: (String) -> Unit = {}): Answer {
        val cut = messages.lastOrNull()
        check(cut != null && cut.role == Role.ASSISTANT) { "there is no answer" }
        val begun = wholeCharacters(cut.text)
        if (begun != cut.text) cutUse = null
        return inTurn(request.copy(grammar = null), onText, begun) { messages.dropLast(1) }
    }

    /** The same, with all else of a request as it is by default. */
    suspend fun goOn(maxNewTokens: Int, sampling: Sampling = chat.sampling, onText: (String) -> Unit = {}): Answer =
        goOn(GenerationRequest(maxNewTokens, sampling), onText)

    /** Forgets all but the first [count] messages. Not while an answer comes. */
    fun rewind(count: Int) {
        check(!isAnswering) { "an answer comes" }
        require(count in 0..messages.size) { "there are ${messages.size} messages" }
        if (count == messages.size) return
        messages = messages.take(count)
        ownUse = null
        cutUse = null
    }

    /**
     * Waits for the engine, then has a question answered; keeps [messages] right whatever happens.
     *
     * @param begun of the answer, where the model goes on with one.
     */
    private suspend fun inTurn(
        request: GenerationRequest,
        onText: (String) -> Unit,
        begun: String? = null,
        asked: () -> List<Message>,
    ): Answer = turns.computeIfAbsent(engine) { Mutex() }.withLock {
        engine.stoppedOnCancel { isCancelled ->
            val messagesBefore = messages
            val droppedBefore = droppedTurns
            val opening = if (begun == null && chat.segments.opensThought) THOUGHT_BEGINS else ""
            val text = AnswerText(chat.stopStrings, hidden, opening)
            isAnswering = true
            try {
                messages = asked()
                engine.adapt(adapter)
                answer(request, text, begun, onText, isCancelled)
            } catch (error: Throwable) {
                ownUse = null
                cutUse = null
                if (text.text.isEmpty()) {
                    messages = messagesBefore
                    droppedTurns = droppedBefore
                } else {
                    messages += Message(Role.ASSISTANT, begun.orEmpty() + text.text)
                }
                throw error
            } finally {
                isAnswering = false
            }
        }
    }

    private suspend fun answer(
        request: GenerationRequest,
        text: AnswerText,
        begun: String?,
        onText: (String) -> Unit,
        isCancelled: () -> Boolean,
    ): Answer {
        var pieces = 0
        var ended = false // by the end token
        var isEndFed = false
        var last = "" // piece that belongs to the answer
        val (generation, fedAgain) = feed(request, begun, isCancelled) { piece ->
            pieces++
            when {
                ended -> {
                    isEndFed = true
                    false
                }
                piece == endToken -> {
                    ended = true
                    // Some versions of the runner do not look at the first token: they feed it and go on.
                    isEndFed = pieces == 1
                    true
                }
                isCancelled() -> false
                else -> {
                    last = piece
                    show(text.add(piece), onText)
                    !text.stopped
                }
            }
        }
        if (!isCancelled()) show(text.finish(), onText)
        if (isCancelled() && text.text.isEmpty()) throw CancellationException("cancelled before the answer began")

        val whole = begun.orEmpty() + text.text
        messages += Message(Role.ASSISTANT, whole)
        if (generation.unfed == endToken && pieces == 1) isEndFed = false
        // An unfed piece that is no part of the answer can be forgotten; the end token begins the next turn anyway.
        unfed = generation.unfed.takeIf { it == last && it != endToken }.orEmpty()
        // A thought is not fed again, so the context with one in it is not that of the next turn.
        ownUse = if (text.stopped || isEndFed || hasThought(whole)) null else engine.uses
        val isCut = !text.stopped && !ended && !isCancelled() && (generation.goesOn || unfed.isNotEmpty())
        cutUse = engine.uses.takeIf { isCut }
        feedAtMost = if (generation.end == Generation.End.CONTEXT) lengthInContext() / 2 else null
        val end = if (text.stopped || ended) Generation.End.MODEL else generation.end
        return Answer(whole, generation.copy(end = end), droppedTurns, fedAgain)
    }

    /** Feeds the last question, what is [begun] of its answer, and as much of what was before as is needed and fits. */
    private suspend fun feed(
        request: GenerationRequest,
        begun: String?,
        isCancelled: () -> Boolean,
        onPiece: (String) -> Boolean,
    ): Pair<Generation, Boolean> {
        val asked = messages
        if (droppedTurns > asked.size / 2) droppedTurns = 0 // turns that were left out were rewound
        val isOwn = (if (begun == null) ownUse else cutUse) == engine.uses && feedAtMost == null
        if (isOwn) {
            val turn = if (begun == null) unfed + chat.segments.nextTurn(asked.last().text) else unfed
            val roomy = request.copy(leavesRoom = droppedTurns < asked.size / 2)
            unlessTooLong { engine.generate(turn, roomy, onPiece) }?.let { return it to false }
            feedAtMost = render(asked, begun).length * 3 / 4 // not turn by turn: all that stays is fed again each time
            if (!dropOldest(asked)) throw EngineException(Problem.PromptTooLong)
        }
        val limit = feedAtMost ?: Int.MAX_VALUE
        do {
            val fits = render(asked, begun).length <= limit
        } while (!fits && dropOldest(asked))
        while (true) {
            engine.startOver()
            if (isCancelled()) throw CancellationException("cancelled before the answer began")
            val fedAgain = droppedTurns < asked.size / 2
            val first = request.copy(addBos = chat.addBos, leavesRoom = droppedTurns < asked.size / 2)
            unlessTooLong { engine.generate(render(asked, begun), first, onPiece) }?.let { return it to fedAgain }
            if (!dropOldest(asked)) throw EngineException(Problem.PromptTooLong)
        }
    }

    /** Leaves one more turn out of what is fed; false if only the question is left. */
    private fun dropOldest(asked: List<Message>): Boolean {
        val more = droppedTurns < asked.size / 2
        if (more) droppedTurns++
        return more
    }

    private fun render(asked: List<Message>, begun: String? = null): String {
        val fed = asked.drop(2 * droppedTurns)
            .map { if (it.role == Role.ASSISTANT) it.copy(text = partsOf(it.text).answer) else it }
        val asWritten = if (chat.segments.opensThought) begun?.removePrefix(THOUGHT_BEGINS) else begun
        return chat.segments.render(fed, systemPrompt) + asWritten.orEmpty()
    }

    /** Characters of the conversation that the context holds now, the answer included. */
    private fun lengthInContext(): Int = render(messages.dropLast(1)).length + messages.last().text.length
}

/** An answer without the half of a character that may stand at its end, where it was cut. */
fun wholeCharacters(text: String): String = text.trimEnd('\uFFFD')

private fun show(text: String, onText: (String) -> Unit) {
    if (text.isNotEmpty()) onText(text)
}

internal inline fun unlessTooLong(generate: () -> Generation): Generation? =
    try {
        generate()
    } catch (error: EngineException) {
        if (error.problem != Problem.PromptTooLong) throw error
        null
    }

/**
 * One answer.
 *
 * @property text as it was shown.
 * @property generation what it took. [Generation.end] is [Generation.End.MODEL] also after a stop string.
 * @property droppedTurns how many of the oldest turns the model does not see any more; they did not fit.
 * @property fedAgain whether earlier turns had to be fed once more, which made the wait for the first token longer.
 */
data class Answer(val text: String, val generation: Generation, val droppedTurns: Int, val fedAgain: Boolean)
