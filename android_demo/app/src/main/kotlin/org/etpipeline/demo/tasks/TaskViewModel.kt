package org.etpipeline.demo.tasks

import android.os.Bundle
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider.AndroidViewModelFactory.Companion.APPLICATION_KEY
import androidx.lifecycle.createSavedStateHandle
import androidx.lifecycle.viewModelScope
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.etpipeline.core.AnswerStats
import org.etpipeline.core.BundleException
import org.etpipeline.core.ChatSession
import org.etpipeline.core.EngineException
import org.etpipeline.core.Generation.End
import org.etpipeline.core.Problem
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.Task
import org.etpipeline.core.fill
import org.etpipeline.core.grammarOf
import org.etpipeline.core.partsOf
import org.etpipeline.core.taskChat
import org.etpipeline.core.toStats
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.MOST_SAVED
import org.etpipeline.demo.Services

/** What the tasks screen shows: the selected bundle and what it was last asked. */
data class TasksState(val bundle: StoredBundle? = null, val run: TaskRun? = null) {
    /** The tasks that have a form; "chat" has a screen of its own. */
    val tasks: Map<String, Task> get() = bundle?.manifest?.tasks.orEmpty() - "chat"
}

/**
 * One run of a task.
 *
 * @property input what the user gave, without the template.
 * @property answer what has come so far.
 * @property stats null while it runs, or if it was stopped.
 */
data class TaskRun(
    val task: String,
    val input: String,
    val choices: Map<String, String> = emptyMap(),
    val phase: Phase = Phase.LOADING,
    val answer: String = "",
    val stats: AnswerStats? = null,
    val problem: Problem? = null,
) {
    val isRunning: Boolean get() = phase == Phase.LOADING || phase == Phase.READING || phase == Phase.WRITING

    /** Whether the answer is only the beginning of one: the task's limit or the context was reached. */
    val isCut: Boolean get() = stats?.end == End.LENGTH.name || stats?.end == End.CONTEXT.name

    /** LOADING includes waiting for another screen's answer. */
    enum class Phase { LOADING, READING, WRITING, DONE, STOPPED }
}

/** Runs one task at a time with the selected model. A run goes on when the screen is turned. */
class TaskViewModel(private val services: Services, saved: SavedStateHandle = SavedStateHandle()) : ViewModel() {
    private val _state = MutableStateFlow(TasksState(services.models.bundle, saved.get<Bundle>(SAVED)?.toTaskRun()))
    val state: StateFlow<TasksState> = _state.asStateFlow()
    private var job: Job? = null

    /** What is typed into a task's form. */
    var draft by mutableStateOf(saved.get<Bundle>(SAVED)?.getString(DRAFT).orEmpty())

    init {
        saved.setSavedStateProvider(SAVED) {
            val run = state.value.run?.takeIf { it.problem == null }?.toBundle() ?: Bundle()
            run.apply { putString(DRAFT, draft.take(MOST_SAVED)) }
        }
        viewModelScope.launch {
            services.models.state.collect { _state.update { it.copy(bundle = services.models.bundle) } }
        }
    }

    /** Fills the template of a task and asks the model, in a conversation of its own. */
    fun run(key: String, text: String, choices: Map<String, String> = emptyMap()) {
        val manifest = _state.value.bundle?.manifest ?: return
        val task = manifest.tasks[key] ?: return
        val previous = job
        job = viewModelScope.launch {
            previous?.cancelAndJoin() // its last words must not get into the new answer
            _state.update { it.copy(run = TaskRun(key, text, choices)) }
            try {
                services.models.use { engine ->
                    change { it.copy(phase = TaskRun.Phase.READING) }
                    val said = StringBuilder()
                    val answer = ChatSession(engine, manifest.taskChat, manifest.tokenizer.specialTokens)
                        .ask(task.fill(text, choices), task.maxNewTokens, grammar = manifest.grammarOf(key)) { piece ->
                            val soFar = partsOf(said.append(piece).toString()).answer // what it thinks is not asked for
                            change { it.copy(phase = TaskRun.Phase.WRITING, answer = soFar) }
                        }
                    change { it.copy(phase = TaskRun.Phase.DONE, stats = answer.generation.toStats()) }
                }
            } catch (e: EngineException) {
                change { it.copy(phase = TaskRun.Phase.DONE, problem = e.problem) }
            } catch (e: BundleException) {
                change { it.copy(phase = TaskRun.Phase.DONE, problem = e.problem) }
            } finally {
                change { if (it.isRunning) it.copy(phase = TaskRun.Phase.STOPPED) else it }
            }
        }
    }

    /** Ends the run; what has come so far stays. */
    fun stop() {
        job?.cancel()
    }

    /** Ends the run and forgets it: another task or note is opened. */
    fun clear() {
        stop()
        _state.update { it.copy(run = null) }
    }

    private fun change(block: (TaskRun) -> TaskRun) {
        _state.update { state -> state.copy(run = state.run?.let(block)) }
    }

    companion object {
        private const val SAVED = "run"
        private const val DRAFT = "draft"

        val Factory = viewModelFactory {
            initializer { TaskViewModel((this[APPLICATION_KEY] as DemoApp).services, createSavedStateHandle()) }
        }
    }
}
