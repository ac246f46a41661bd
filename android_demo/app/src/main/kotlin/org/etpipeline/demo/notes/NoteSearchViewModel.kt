package org.etpipeline.demo.notes

import android.database.sqlite.SQLiteException
import android.os.Bundle
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider.AndroidViewModelFactory.Companion.APPLICATION_KEY
import androidx.lifecycle.createSavedStateHandle
import androidx.lifecycle.viewModelScope
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.etpipeline.core.BundleException
import org.etpipeline.core.Chat
import org.etpipeline.core.ChatSession
import org.etpipeline.core.EngineException
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Message
import org.etpipeline.core.Note
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.Role
import org.etpipeline.core.partsOf
import org.etpipeline.core.search.Hit
import org.etpipeline.core.search.NotesPrompt
import org.etpipeline.core.search.bestOfEachNote
import org.etpipeline.core.taskChat
import org.etpipeline.core.toStats
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.Services
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.tasks.TaskRun

/** So long after the last key a query is looked for. */
private const val TYPING_MS = 300L

private const val LONGEST_ANSWER = 256
private const val MOST_FOUND = 10

/**
 * What the search in the notes shows.
 *
 * @property isPossible whether there is a model that embeds; null: not known yet.
 * @property found by meaning, the best chunk of each note; null: nothing was looked for yet.
 * @property indexing notes that are embedded, of those that have to be; null: none have to.
 * @property run what was asked last, and its answer.
 * @property sources the chunks that the model was given for it, numbered from 1 in the prompt.
 * @property problem why there is no search by meaning.
 */
data class NoteSearchState(
    val query: String = "",
    val isPossible: Boolean? = null,
    val found: List<Hit>? = null,
    val indexing: Pair<Int, Int>? = null,
    val run: TaskRun? = null,
    val sources: List<Hit> = emptyList(),
    val problem: Problem? = null,
)

/** Looks for notes while the user types, and asks the selected model about what is found. */
class NoteSearchViewModel(private val services: Services, saved: SavedStateHandle = SavedStateHandle()) : ViewModel() {
    private val _state = MutableStateFlow(saved.get<Bundle>(SAVED)?.toNoteSearchState() ?: NoteSearchState())
    val state: StateFlow<NoteSearchState> = _state.asStateFlow()
    private var job: Job? = null

    init {
        saved.setSavedStateProvider(SAVED) { state.value.toBundle() }
    }

    /** Looks for [query]; what was asked before is forgotten. */
    fun search(query: String, notes: List<Note>) {
        _state.update { NoteSearchState(query, it.isPossible, it.found.takeIf { query.isNotBlank() }) }
        launch {
            delay(TYPING_MS)
            val isPossible = services.search.isPossible()
            _state.update { it.copy(isPossible = isPossible) }
            if (isPossible && query.isNotBlank()) {
                try {
                    find(query, notes)
                } catch (e: EngineException) {
                    _state.update { it.copy(problem = e.problem) }
                } catch (e: BundleException) {
                    _state.update { it.copy(problem = e.problem) }
                } catch (e: SQLiteException) {
                    _state.update { it.copy(problem = e.asProblem()) }
                }
            }
        }
    }

    /**
     * Asks the selected model what was typed, about the notes that are found for it.
     *
     * @param template of the prompt, see [NotesPrompt].
     */
    fun ask(template: String, notes: List<Note>) {
        val question = _state.value.query.trim()
        if (question.isEmpty()) return
        launch {
            _state.update { it.copy(run = TaskRun("ask_notes", question), sources = emptyList(), problem = null) }
            try {
                val hits = find(question, notes)
                services.models.use { engine -> answer(engine, NotesPrompt(template, question), hits) }
            } catch (e: EngineException) {
                end(e.problem)
            } catch (e: BundleException) {
                end(e.problem)
            } catch (e: SQLiteException) {
                end(e.asProblem())
            } finally {
                change { if (it.isRunning) it.copy(phase = TaskRun.Phase.STOPPED) else it }
            }
        }
    }

    /** Ends the answer; what has come so far stays. */
    fun stop() {
        job?.cancel()
    }

    private suspend fun find(query: String, notes: List<Note>): List<Hit> {
        try {
            val hits = services.search.find(query, notes) { done, total ->
                _state.update { it.copy(indexing = done to total) }
            }
            _state.update { it.copy(found = hits.bestOfEachNote().take(MOST_FOUND), problem = null) }
            return hits
        } finally {
            _state.update { it.copy(indexing = null) }
        }
    }

    private suspend fun answer(engine: LlmEngine, prompt: NotesPrompt, hits: List<Hit>) {
        val ready = services.models.state.value as? ModelHolder.State.Ready ?: throw EngineException(Problem.NoModel)
        val manifest = checkNotNull(ready.bundle.manifest)
        change { it.copy(phase = TaskRun.Phase.READING) }
        val longest = minOf(LONGEST_ANSWER, ready.program.maxContext / 4)
        val sources = prompt.fitting(hits, room(engine, manifest.taskChat, ready.program) - longest, engine::countTokens)
        _state.update { it.copy(sources = sources) }
        val said = StringBuilder()
        val answer = ChatSession(engine, manifest.taskChat, manifest.tokenizer.specialTokens)
            .ask(prompt.with(sources.map { it.chunk.text }), longest) { piece ->
                val soFar = partsOf(said.append(piece).toString()).answer // what it thinks is not asked for
                change { it.copy(phase = TaskRun.Phase.WRITING, answer = soFar) }
            }
        change { it.copy(phase = TaskRun.Phase.DONE, stats = answer.generation.toStats()) }
    }

    /** Tokens of the context that are left for a message and its answer. */
    private suspend fun room(engine: LlmEngine, chat: Chat, program: Program): Int {
        val around = chat.segments.render(listOf(Message(Role.USER, "")), chat.systemPrompt)
        return program.maxContext - engine.countTokens(around) - if (chat.addBos) 1 else 0
    }

    private fun launch(block: suspend () -> Unit) {
        val previous = job
        job = viewModelScope.launch {
            previous?.cancelAndJoin() // its last words must not get into the new answer
            block()
        }
    }

    private fun end(problem: Problem) = change { it.copy(phase = TaskRun.Phase.DONE, problem = problem) }

    private fun change(block: (TaskRun) -> TaskRun) {
        _state.update { state -> state.copy(run = state.run?.let(block)) }
    }

    companion object {
        private const val SAVED = "search"

        val Factory = viewModelFactory {
            initializer { NoteSearchViewModel((this[APPLICATION_KEY] as DemoApp).services, createSavedStateHandle()) }
        }
    }
}

private fun SQLiteException.asProblem() = Problem.Storage(message?.lineSequence()?.first() ?: javaClass.simpleName)
