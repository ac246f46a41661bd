package org.etpipeline.demo.engine

import android.content.ComponentCallbacks2
import android.content.SharedPreferences
import androidx.core.content.edit
import java.io.File
import java.util.UUID
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleStore
import org.etpipeline.core.EngineException
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.chooseProgram
import org.etpipeline.core.requireMemory
import org.etpipeline.demo.phone.Phone
import org.etpipeline.engine.openEngine

/**
 * Owns the one loaded model that answers: which it is, loading it when it is needed, freeing it when the system asks.
 *
 * Screens call [use] and need not know whether the model is loaded. One at a time answers.
 *
 * @param slots folder for the files from which programs read adapters; what an earlier process left there is removed.
 */
class ModelHolder(
    private val store: BundleStore,
    private val phone: Phone,
    private val preferences: SharedPreferences,
    private val slots: File,
    private val newEngine: (StoredBundle, Program) -> LlmEngine = { bundle, program ->
        val slot = if (program.adapterRank > 0) File(slots, "${UUID.randomUUID()}.ptd") else null
        openEngine(bundle.folder, checkNotNull(bundle.manifest), program, slot)
    },
) {
    init {
        slots.deleteRecursively()
        slots.mkdirs()
    }

    /** What is selected and whether it is loaded. */
    sealed interface State {
        /** There is no model that could be used. */
        data object Empty : State

        data class Selected(val bundle: StoredBundle) : State

        data class Loading(val bundle: StoredBundle) : State

        data class Ready(val bundle: StoredBundle, val program: Program, val loadMs: Long) : State

        data class Failed(val bundle: StoredBundle, val problem: Problem) : State
    }

    private val _state = MutableStateFlow<State>(State.Empty)
    val state: StateFlow<State> = _state.asStateFlow()

    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val turn = Mutex()
    private var loaded: LlmEngine? = null // guarded by turn
    private var ready: State.Ready? = null // what is loaded; null while it loads; guarded by turn

    @Volatile private var freeAfterAnswer = false

    /** The selected bundle. */
    val bundle: StoredBundle?
        get() = when (val now = state.value) {
            State.Empty -> null
            is State.Selected -> now.bundle
            is State.Loading -> now.bundle
            is State.Ready -> now.bundle
            is State.Failed -> now.bundle
        }

    /** What would run of a bundle on this phone, loaded or not; null: nothing. */
    fun programOf(bundle: StoredBundle): Program? = try {
        bundle.manifest?.let { chooseProgram(it, phone.facts) }
    } catch (_: BundleException) {
        null
    }

    /** Selects a bundle of the store; it is loaded at its first use. */
    fun select(id: String) {
        val chosen = store.list().find { it.id == id && !it.embeds } ?: return
        preferences.edit { putString(SELECTED, id) }
        if (chosen.id != bundle?.id || state.value is State.Failed) _state.value = State.Selected(chosen)
    }

    /** Looks at the store again, after an import or a deletion. Without a selection the first usable bundle is taken. */
    fun refresh() {
        val usable = store.list().filter { it.problem == null && !it.embeds }
        val wanted = bundle?.id ?: preferences.getString(SELECTED, null)
        val chosen = usable.find { it.id == wanted } ?: usable.firstOrNull()
        if (chosen == null) _state.value = State.Empty else if (chosen.id != bundle?.id) _state.value = State.Selected(chosen)
    }

    /**
     * Runs [block] with the selected model, loaded. Others wait until it ends.
     *
     * @throws BundleException if the model cannot run on this phone; nothing was loaded then.
     * @throws EngineException if the runtime refuses it, or [block] fails.
     */
    suspend fun <T> use(block: suspend (LlmEngine) -> T): T = turn.withLock {
        try {
            block(engine())
        } finally {
            if (freeAfterAnswer) free()
        }
    }

    /**
     * Runs [block] with engines of its own for the selected model: a benchmark loads again and again. The loaded model
     * is freed before, to measure one alone.
     */
    suspend fun <T> useFresh(block: suspend (StoredBundle, Program, newEngine: () -> LlmEngine) -> T): T = turn.withLock {
        val chosen = bundle ?: throw BundleException(Problem.NoModel)
        val program = check(chosen)
        free()
        block(chosen, program) { newEngine(chosen, program) }
    }

    /** Frees the model's memory, after the answer that is being given; the next use loads it again. */
    suspend fun unload() = turn.withLock { free() }

    /** What the system says about memory: frees the model when the app is hidden or memory runs out. */
    fun onTrimMemory(level: Int) {
        if (!isMemoryShort(level)) return
        freeAfterAnswer = true
        scope.launch {
            turn.withLock { if (freeAfterAnswer) free() }
        }
    }

    private suspend fun engine(): LlmEngine {
        while (true) {
            val chosen = bundle ?: throw BundleException(Problem.NoModel)
            val engineBefore = loaded
            val before = ready
            if (engineBefore != null && before?.bundle?.id == chosen.id) {
                // Another model may have been selected meanwhile, and then this one again, before anybody asked.
                if (_state.compareAndSet(State.Selected(chosen), before) || state.value == before) return engineBefore
                continue
            }
            free()
            val loading = State.Loading(chosen)
            _state.value = loading
            // If another model is selected meanwhile, that one stays selected, and it is loaded instead.
            fun become(next: State): Boolean = _state.compareAndSet(loading, next)
            try {
                val program = check(chosen)
                val engine = newEngine(chosen, program).also { loaded = it }
                val made = State.Ready(chosen, program, engine.load()).also { ready = it }
                if (become(made)) return engine
            } catch (error: Exception) {
                free()
                val next = when (error) {
                    is BundleException -> State.Failed(chosen, error.problem)
                    is EngineException -> State.Failed(chosen, error.problem)
                    else -> State.Selected(chosen)
                }
                if (become(next) || next is State.Selected) throw error
            }
        }
    }

    /** The program to run here, if the bundle is whole and fits into this phone's memory. */
    private fun check(chosen: StoredBundle): Program {
        chosen.problem?.let { throw BundleException(it) }
        val manifest = chosen.manifest ?: throw BundleException(Problem.NoManifest)
        val program = chooseProgram(manifest, phone.facts)
        requireMemory(manifest.memoryOf(program), phone.totalRam, phone.freeRam)
        return program
    }

    private fun free() {
        freeAfterAnswer = false
        loaded?.close()
        loaded = null
        ready = null
        (_state.value as? State.Ready)?.let { _state.compareAndSet(it, State.Selected(it.bundle)) }
    }

    private companion object {
        const val SELECTED = "selected_model"
    }
}

/** What a level of the system's `onTrimMemory` means. */
internal fun isMemoryShort(level: Int): Boolean {
    @Suppress("DEPRECATION") // still sent up to Android 13
    val critical = ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL
    return level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND || level == critical
}
