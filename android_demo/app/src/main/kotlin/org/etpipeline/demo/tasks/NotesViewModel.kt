package org.etpipeline.demo.tasks

import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider.AndroidViewModelFactory.Companion.APPLICATION_KEY
import androidx.lifecycle.viewModelScope
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import java.util.UUID
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.etpipeline.core.BundleException
import org.etpipeline.core.Note
import org.etpipeline.core.Problem
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.Services

/** So long after the last key a note is written to disk. */
private const val AUTOSAVE_MS = 500L

/** @property notes the newest first; null until they have been read. */
data class NotesState(val notes: List<Note>? = null, val problem: Problem? = null)

/** The user's notes. What is typed is saved by itself. */
class NotesViewModel(private val services: Services, private val now: () -> Long = System::currentTimeMillis) : ViewModel() {
    private val _state = MutableStateFlow(NotesState())
    val state: StateFlow<NotesState> = _state.asStateFlow()

    /** Outlives the screen, so that the last words are written when it closes; one at a time, so in order. */
    private val disk = CoroutineScope(SupervisorJob() + services.io.limitedParallelism(1))
    private val unsaved = mutableSetOf<String>()
    private var autosave: Job? = null

    init {
        disk.launch {
            val read = services.notes.all().values
            _state.update { state ->
                val made = state.notes.orEmpty() // while the others were being read
                state.copy(notes = made + read.filterNot { note -> made.any { it.id == note.id } }.sortedByDescending { it.updated })
            }
        }
    }

    /** Makes a note and returns its id. */
    fun create(text: String = ""): String {
        val note = Note(UUID.randomUUID().toString(), text, now())
        _state.update { it.copy(notes = listOf(note) + it.notes.orEmpty()) }
        if (text.isNotBlank()) {
            unsaved += note.id
            save()
        }
        return note.id
    }

    fun edit(id: String, text: String) {
        val edited = Note(id, text, now())
        _state.update { it.copy(notes = listOf(edited) + it.notes.orEmpty().filterNot { note -> note.id == id }) }
        unsaved += id
        autosave?.cancel()
        autosave = viewModelScope.launch {
            delay(AUTOSAVE_MS)
            save()
        }
    }

    fun delete(id: String) {
        unsaved -= id
        _state.update { it.copy(notes = it.notes?.filterNot { note -> note.id == id }) }
        write { services.notes.delete(id) }
    }

    /** Writes what is not written yet, now: the app may be killed once it is not seen. */
    fun save() {
        val notes = _state.value.notes.orEmpty().filter { it.id in unsaved }
        unsaved.clear()
        write { notes.forEach { services.notes.write(it.id, it) } }
    }

    /** An empty note is none. */
    fun close(id: String) {
        if (_state.value.notes?.find { it.id == id }?.text.isNullOrBlank()) delete(id) else save()
    }

    fun dismiss() {
        _state.update { it.copy(problem = null) }
    }

    override fun onCleared() = save()

    private fun write(block: () -> Unit) {
        disk.launch {
            try {
                block()
            } catch (e: BundleException) {
                _state.update { it.copy(problem = e.problem) }
            }
        }
    }

    companion object {
        val Factory = viewModelFactory {
            initializer { NotesViewModel((this[APPLICATION_KEY] as DemoApp).services) }
        }
    }
}
