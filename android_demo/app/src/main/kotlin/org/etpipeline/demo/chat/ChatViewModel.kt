package org.etpipeline.demo.chat

import android.content.ContentResolver
import android.net.Uri
import android.os.Bundle
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.core.content.edit
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider.AndroidViewModelFactory.Companion.APPLICATION_KEY
import androidx.lifecycle.createSavedStateHandle
import androidx.lifecycle.viewModelScope
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import java.io.File
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.combine
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import kotlinx.serialization.json.Json
import org.etpipeline.core.Answer
import org.etpipeline.core.AnswerStats
import org.etpipeline.core.BatteryReading
import org.etpipeline.core.BundleException
import org.etpipeline.core.ChatSession
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Conversation
import org.etpipeline.core.EngineException
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Manifest
import org.etpipeline.core.Message
import org.etpipeline.core.Problem
import org.etpipeline.core.Role
import org.etpipeline.core.SavedMessage
import org.etpipeline.core.Task
import org.etpipeline.core.fill
import org.etpipeline.core.partsOf
import org.etpipeline.core.toStats
import org.etpipeline.core.wholeCharacters
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.MOST_SAVED
import org.etpipeline.demo.Services
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.writeTo

private const val TITLE_LENGTH = 60
private const val DRAFT = "draft"
private const val TEXT = "text"
private const val REPLACING = "replacing"
private const val SAVE_EVERY_MS = 1000L
private const val SETTINGS_SAVED_AFTER_MS = 500L // of quiet: a slider says each of its steps

// At temperature 0 the same question has the same answer, and somebody who asks again wants another one.
private const val TEMPERATURE_OF_ANOTHER_ANSWER = 0.8f

/** The same for an answer that is to be another one than with the seed that was set, or at temperature 0. */
private fun GenerationRequest.another(temperature: Float): GenerationRequest =
    copy(seed = null, sampling = sampling.copy(temperature = maxOf(temperature, sampling.temperature)))

/** The conversation on the screen, and those of before. An answer goes on when the screen is turned. */
class ChatViewModel(
    private val services: Services,
    private val saved: SavedStateHandle = SavedStateHandle(),
    private val now: () -> Long = System::currentTimeMillis,
) : ViewModel() {
    private val _state = MutableStateFlow(
        ChatState(
            model = services.models.state.value,
            startup = services.startup.state.value,
            conversation = newConversation().copy(settings = settingsBefore()),
        ),
    )
    val state: StateFlow<ChatState> = _state.asStateFlow()

    // What was said is written even if the screen goes away meanwhile; in order, one after the other.
    private val disk = CoroutineScope(SupervisorJob() + services.io.limitedParallelism(1))
    private val deleted = mutableSetOf<String>() // an answer that still comes must not write it again
    private var job: Job? = null
    private var opening: Job? = null
    private var settingsJob: Job? = null
    private var answering: LlmEngine? = null
    private var session: ChatSession? = null
    private var sessionOn: LlmEngine? = null

    /** What is typed. After the end of the process it belongs to the chat that is read from the disk and open again. */
    var draft by mutableStateOf(saved.get<Bundle>(DRAFT)?.toDraft() ?: Draft())

    init {
        saved.setSavedStateProvider(DRAFT) { draft.toBundle() }
        viewModelScope.launch {
            combine(services.models.state, services.startup.state, ::Pair).collect { (model, startup) ->
                _state.update { it.copy(model = model, startup = startup) }
            }
        }
        viewModelScope.launch {
            val bundles = services.models.state.map { it.bundle }.distinctUntilChanged()
            combine(bundles, services.adapters.changes) { bundle, _ -> bundle }.collect { bundle ->
                val (program, adapters) = withContext(services.io) {
                    val program = bundle?.let(services.models::programOf)
                    val isPossible = bundle != null && program != null
                    program to if (isPossible) services.adapters.list(bundle, program) else emptyList()
                }
                _state.update { it.copy(program = program, adapters = adapters) }
            }
        }
        viewModelScope.launch {
            val saved = withContext(services.io) { services.conversations.all().values.sortedByDescending { it.updated } }
            val open = saved.find { it.id == services.preferences.getString(OPEN, null) }
            _state.update { state ->
                val new = state.history.map { it.id } // said while the files were read
                val all = state.history + saved.filterNot { it.id in new }
                if (state.turns.isEmpty() && open != null) state.copy(conversation = open, history = all) else state.copy(history = all)
            }
        }
    }

    /** Sends a message. With [replacing], the question at this place and all after it are replaced by it. */
    fun send(text: String, replacing: Int? = null) {
        if (text.isBlank()) return
        answer { turns -> Asking(turns.take(replacing ?: turns.size) + SavedMessage(Role.USER, text.trim())) }
    }

    /** Answers the last question again, differently. */
    fun regenerate() = answer { turns ->
        val question = turns.indexOfLast { it.role == Role.USER }
        val isFirstAnswer = question == turns.lastIndex || turns.last().unfinished
        val temperature = if (isFirstAnswer) null else TEMPERATURE_OF_ANOTHER_ANSWER
        if (question < 0) null else Asking(turns.take(question + 1), temperature)
    }

    /** Goes on with the last answer, which was cut. */
    fun goOn() {
        if (state.value.canGoOn) answer { turns -> Asking(turns) }
    }

    /** Lets these count from the next answer of this conversation on. */
    fun set(settings: ChatSettings) {
        _state.update { it.copy(conversation = it.conversation.copy(settings = settings)) }
        val isNew = state.value.turns.isEmpty() // and not written to disk
        saved[SETTINGS] = if (isNew) Json.encodeToString(ChatSettings.serializer(), settings) else null
        settingsJob?.cancel()
        settingsJob = viewModelScope.launch {
            delay(SETTINGS_SAVED_AFTER_MS)
            save()
        }
    }

    /** Writes a text of this conversation to where the user has chosen. */
    fun export(resolver: ContentResolver, place: Uri, text: String) {
        viewModelScope.launch {
            val problem = services.writeTo(resolver, place, text)
            if (problem != null) _state.update { it.copy(problem = problem) }
        }
    }

    /** Ends the answer; what has come so far stays. */
    fun stop() {
        val engine = answering
        if (engine != null && state.value.phase == ChatState.Phase.WRITING) engine.stop() else job?.cancel()
    }

    fun startNew() = open(newConversation())

    fun open(conversation: Conversation) {
        if (settingsJob?.isActive == true) save()
        settingsJob?.cancel()
        saved[SETTINGS] = null
        val before = listOfNotNull(opening, job)
        job?.cancel()
        opening = viewModelScope.launch {
            before.joinAll()
            _state.update { it.copy(conversation = conversation, leftOut = 0, problem = null) }
            services.preferences.edit { putString(OPEN, conversation.id) }
        }
    }

    fun delete(conversation: Conversation) {
        deleted += conversation.id
        _state.update { state -> state.copy(history = state.history.filterNot { it.id == conversation.id }) }
        disk.launch { services.conversations.delete(conversation.id) }
        if (state.value.conversation.id == conversation.id) {
            startNew()
        }
    }

    fun dismissProblem() {
        services.startup.dismissProblem()
        _state.update { it.copy(problem = null) }
    }

    /** Has what it makes of the open conversation's turns answered, if anything. */
    private fun answer(asking: (turns: List<SavedMessage>) -> Asking?) {
        val previous = job
        val opening = opening // of another conversation, which waits for the same
        job = viewModelScope.launch {
            previous?.cancelAndJoin() // its last words must not get into the new answer
            opening?.join()
            val (asked, temperature) = asking(state.value.turns) ?: return@launch
            val bundle = services.models.bundle
            _state.update { state ->
                val title = state.conversation.title.ifEmpty { asked.first().text.lineSequence().first().take(TITLE_LENGTH) }
                state.copy(
                    conversation = state.conversation.copy(bundle = bundle?.id.orEmpty(), title = title, turns = asked),
                    phase = ChatState.Phase.WAITING,
                    asked = Asked(now(), kept(asked.last())),
                    problem = null,
                )
            }
            services.preferences.edit { putString(OPEN, state.value.conversation.id) }
            saved[SETTINGS] = null
            save()
            val saving = launch {
                while (true) {
                    delay(SAVE_EVERY_MS)
                    save()
                }
            }
            try {
                services.models.use { engine ->
                    answering = engine
                    val before = battery()
                    val answer = ask(engine, checkNotNull(services.models.bundle?.manifest), asked, temperature)
                    finish(answer, asked.last().stats)
                    services.battery.add(before, battery(), answer.generation.tokens.toLong())
                    _state.update { it.copy(battery = services.battery.use) }
                }
            } catch (error: EngineException) {
                _state.update { it.copy(problem = error.problem) }
            } catch (error: BundleException) {
                _state.update { it.copy(problem = error.problem) }
            } finally {
                answering = null
                saving.cancel()
                _state.update { it.copy(phase = ChatState.Phase.IDLE) }
                save()
            }
        }
    }

    private suspend fun ask(
        engine: LlmEngine,
        manifest: Manifest,
        asked: List<SavedMessage>,
        temperature: Float?,
    ): Answer {
        val task = manifest.tasks["chat"]
        val goesOn = asked.last().role == Role.ASSISTANT
        val past = alternating(if (goesOn) asked else asked.dropLast(1)).map { Message(it.role, it.fed(task)) }
        val settings = state.value.settings
        val systemPrompt = settings.systemPrompt(manifest.chat.systemPrompt)
        val chat = manifest.chat.thatThinks(settings.thinks)
        val adapter = adapterOf(settings)
        val session = session?.takeIf {
            sessionOn === engine && it.messages == past && it.systemPrompt == systemPrompt && it.chat == chat &&
                it.adapter == adapter
        } ?: ChatSession(engine, chat, manifest.tokenizer.specialTokens, past, systemPrompt, adapter)
        this.session = session
        sessionOn = engine
        val request = settings.request(manifest.chat.sampling, OwnSettings(manifest).maxNewTokens).let { set ->
            if (temperature == null) set else set.another(temperature)
        }
        var began = -1L
        fun show(piece: String) {
            val isNew = began < 0
            if (isNew) began = now()
            val elapsed = now() - began
            _state.update { it.withPiece(piece, isNew, elapsed, settings.adapter) }
        }
        return if (goesOn) {
            session.goOn(request, ::show)
        } else {
            session.ask(asked.last().fed(task), request, ::show)
        }
    }

    /** The file of the adapter that was chosen, of the model that is loaded. */
    private suspend fun adapterOf(settings: ChatSettings): File? {
        val name = settings.adapter ?: return null
        val loaded = services.models.state.value as? ModelHolder.State.Ready ?: throw BundleException(Problem.NoModel)
        return withContext(services.io) { services.adapters.find(name, loaded.bundle, loaded.program) }
    }

    private suspend fun battery(): BatteryReading? = withContext(services.io) { services.phone.battery() }

    private fun settingsBefore(): ChatSettings =
        saved.get<String>(SETTINGS)?.let { Json.decodeFromString(ChatSettings.serializer(), it) } ?: ChatSettings()

    /** @param before what an answer took that was cut, and has gone on. */
    private fun finish(answer: Answer, before: AnswerStats?) {
        _state.update { state ->
            val last = state.turns.last()
            val questions = state.turns.dropLastWhile { it.role == Role.ASSISTANT }
            val stats = answer.generation.toStats().let { it.copy(tokens = it.tokens + (before?.tokens ?: 0)) }
            val answered = SavedMessage(Role.ASSISTANT, answer.text, stats, false, last.thoughtMs, last.adapter)
            val turns = questions + answered
            state.copy(conversation = state.conversation.copy(turns = turns), leftOut = 2 * answer.droppedTurns)
        }
    }

    private fun kept(last: SavedMessage): Int =
        if (last.role == Role.ASSISTANT) partsOf(wholeCharacters(last.text)).answer.length else 0

    /** A question that was never answered is not fed: two in a row are no chat. */
    private fun alternating(turns: List<SavedMessage>): List<SavedMessage> =
        turns.filterIndexed { index, turn -> turn.role != Role.USER || turns.getOrNull(index + 1)?.role == Role.ASSISTANT }

    private fun SavedMessage.fed(task: Task?): String = if (role == Role.USER && task != null) task.fill(text) else text.ifBlank { "…" }

    private fun save() {
        val conversation = state.value.conversation.copy(updated = now())
        if (conversation.turns.isEmpty() || conversation.id in deleted) return
        _state.update { state -> state.copy(history = listOf(conversation) + state.history.filterNot { it.id == conversation.id }) }
        disk.launch {
            try {
                services.conversations.write(conversation.id, conversation)
            } catch (error: BundleException) {
                _state.update { it.copy(problem = error.problem) }
            }
        }
    }

    companion object {
        private const val OPEN = "open_conversation"
        private const val SETTINGS = "settings_of_new_chat"

        val Factory = viewModelFactory {
            initializer { ChatViewModel((this[APPLICATION_KEY] as DemoApp).services, createSavedStateHandle()) }
        }
    }
}

/**
 * What is fed.
 *
 * @property turns the last is a question to be answered, or an answer to be gone on with.
 * @property temperature at least this one.
 */
private data class Asking(val turns: List<SavedMessage>, val temperature: Float? = null)

private fun Draft.toBundle() = Bundle().apply {
    putString(TEXT, text.take(MOST_SAVED))
    replacing?.let { putInt(REPLACING, it) }
}

private fun Bundle.toDraft() = Draft(getString(TEXT).orEmpty(), if (containsKey(REPLACING)) getInt(REPLACING) else null)
