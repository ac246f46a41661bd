package org.etpipeline.demo.chat

import java.util.UUID
import org.etpipeline.core.BatteryUse
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Conversation
import org.etpipeline.core.Generation.End
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.Role
import org.etpipeline.core.Sampling
import org.etpipeline.core.SavedMessage
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.partsOf
import org.etpipeline.core.wholeCharacters
import org.etpipeline.demo.Startup
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.engine.KnownAdapter
import org.etpipeline.engine.goesThroughLlmModule

/**
 * What the chat screen shows.
 *
 * @property conversation the open one; its last turn is the answer that comes, if [phase] says so.
 * @property asked which answer comes, or came last.
 * @property leftOut how many of the oldest messages the model no longer sees.
 * @property problem what went wrong, until it is dismissed or something is sent.
 * @property history all saved conversations, the newest first.
 * @property program what of the selected model runs here.
 * @property adapters what it can compute with.
 * @property battery what the answers since the app was opened took; null before the first.
 */
data class ChatState(
    val model: ModelHolder.State = ModelHolder.State.Empty,
    val startup: Startup.State = Startup.State(),
    val conversation: Conversation = newConversation(),
    val phase: Phase = Phase.IDLE,
    val asked: Asked = Asked(),
    val leftOut: Int = 0,
    val problem: Problem? = null,
    val history: List<Conversation> = emptyList(),
    val program: Program? = null,
    val adapters: List<KnownAdapter> = emptyList(),
    val battery: BatteryUse? = null,
) {
    val turns: List<SavedMessage> get() = conversation.turns

    val settings: ChatSettings get() = conversation.settings

    /** What of the selected model can be set. */
    val own: OwnSettings? get() = model.bundle?.manifest?.let { OwnSettings(it, program, adapters) }

    /** Whether the model can go on with the last answer. One that fills the context by itself leaves no room. */
    val canGoOn: Boolean
        get() {
            val last = turns.lastOrNull() ?: return false
            val isAlone = turns.size <= 2 && last.stats?.end == End.CONTEXT.name
            return phase == Phase.IDLE && last.isCut && !isAlone && model != ModelHolder.State.Empty
        }

    /** IDLE: the user may write. WAITING: the model is loaded, or reads. WRITING: the answer comes. */
    enum class Phase { IDLE, WAITING, WRITING }
}

/**
 * An answer that the model was asked for.
 *
 * @property at milliseconds since 1970, which tells it from others.
 * @property kept characters of it that were there before, as the model goes on with it; without its thoughts.
 */
data class Asked(val at: Long = 0, val kept: Int = 0)

/**
 * What a model's manifest says where the user has set nothing.
 *
 * @property systemPrompt null: it has none.
 * @property thinks whether it thinks before it answers; null: its template has no switch for that.
 * @property knowsOnlyTemperature its engine leaves the rest of [sampling] aside.
 * @property adapters what makes other models of it.
 */
data class OwnSettings(
    val sampling: Sampling,
    val maxNewTokens: Int,
    val maxContext: Int,
    val systemPrompt: String?,
    val takesSystemPrompt: Boolean,
    val thinks: Boolean?,
    val knowsOnlyTemperature: Boolean,
    val adapters: List<KnownAdapter>,
) {
    constructor(manifest: Manifest, program: Program? = null, adapters: List<KnownAdapter> = emptyList()) : this(
        sampling = manifest.chat.sampling,
        maxNewTokens = manifest.tasks["chat"]?.maxNewTokens ?: LONGEST_ANSWER,
        maxContext = manifest.programs.maxOf { it.maxContext },
        systemPrompt = manifest.chat.systemPrompt,
        takesSystemPrompt = manifest.chat.segments.supportsSystem,
        thinks = manifest.chat.thinking?.default,
        knowsOnlyTemperature = (program?.let(::listOf) ?: manifest.programs).all(::goesThroughLlmModule),
        adapters = adapters,
    )

    private companion object {
        const val LONGEST_ANSWER = 256 // for a model whose manifest has no chat task
    }
}

/** The selected bundle, whatever became of it. */
internal val ModelHolder.State.bundle: StoredBundle?
    get() = when (this) {
        ModelHolder.State.Empty -> null
        is ModelHolder.State.Selected -> bundle
        is ModelHolder.State.Loading -> bundle
        is ModelHolder.State.Ready -> bundle
        is ModelHolder.State.Failed -> bundle
    }

internal fun newConversation() =
    Conversation(UUID.randomUUID().toString(), bundle = "", title = "", updated = 0, turns = emptyList())

/**
 * One more [piece] of the answer that comes.
 *
 * @param isNew whether it is the first; then an answer that was cut may go on with it.
 * @param elapsedMs since the first.
 * @param adapter with which the model answers.
 */
internal fun ChatState.withPiece(piece: String, isNew: Boolean, elapsedMs: Long, adapter: String?): ChatState {
    val isFirst = turns.last().role == Role.USER
    val soFar = (if (isFirst) SavedMessage(Role.ASSISTANT, "") else turns.last()).copy(adapter = adapter)
    val text = (if (isNew) wholeCharacters(soFar.text) else soFar.text) + piece
    val hasThought = partsOf(soFar.text).isThinking && !partsOf(text).isThinking
    val thoughtMs = if (hasThought) elapsedMs else soFar.thoughtMs
    val longer = soFar.copy(text = text, stats = null, unfinished = true, thoughtMs = thoughtMs)
    val turns = (if (isFirst) turns else turns.dropLast(1)) + longer
    return copy(conversation = conversation.copy(turns = turns), phase = ChatState.Phase.WRITING)
}
