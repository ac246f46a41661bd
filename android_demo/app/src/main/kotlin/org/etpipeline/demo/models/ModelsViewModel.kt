package org.etpipeline.demo.models

import android.os.Bundle
import androidx.core.content.edit
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider.AndroidViewModelFactory.Companion.APPLICATION_KEY
import androidx.lifecycle.createSavedStateHandle
import androidx.lifecycle.viewModelScope
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import java.io.IOException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Job
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.conflate
import kotlinx.coroutines.flow.merge
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleSource
import org.etpipeline.core.Fit
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.Quality
import org.etpipeline.core.Speed
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.chooseProgram
import org.etpipeline.core.memoryFit
import org.etpipeline.core.requireMemory
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.Services
import org.etpipeline.demo.phone.Phone
import org.etpipeline.engine.KnownAdapter

/** While a model is being copied its state changes many times a second; the list need not. */
private const val RELOAD_MS = 250L

/**
 * What the models screen shows.
 *
 * @property models null until the store has been read.
 * @property importing the import that runs, if any.
 * @property problem the last thing that went wrong, until it is dismissed.
 * @property imported the model that was imported last, until it is dismissed or another import begins.
 * @property othersMayAsk whether other apps may ask the selected model.
 */
data class ModelsState(
    val models: List<ModelItem>? = null,
    val importing: Importing? = null,
    val problem: Problem? = null,
    val imported: ModelItem? = null,
    val othersMayAsk: Boolean = false,
)

/** Bytes of an import; [name] is null while the source is still being opened, [total] if nobody knows it. */
data class Importing(val name: String? = null, val done: Long = 0, val total: Long? = null)

/**
 * One bundle of the store, judged for this phone.
 *
 * @property refusal why it cannot be used here: unreadable, no program for this phone, or too much memory.
 * @property program what would run here; null if nothing would.
 * @property measured its speed, where there is a figure.
 * @property adapters what the program can compute with.
 */
data class ModelItem(
    val bundle: StoredBundle,
    val selected: Boolean = false,
    val totalRam: Long = 0,
    val fit: Fit? = null,
    val program: Program? = null,
    val refusal: Problem? = null,
    val measured: Measured? = null,
    val adapters: List<KnownAdapter> = emptyList(),
) {
    val name: String get() = bundle.manifest?.what?.name ?: bundle.id

    /** Whether it can be chosen to answer: one that embeds is there for the notes, without being chosen. */
    val isSelectable: Boolean get() = !selected && refusal == null && !bundle.embeds
}

/** A speed and whether it was measured on this very phone model. */
data class Measured(val speed: Speed, val here: Boolean)

/** The list of models: import, select, delete. An import goes on when the screen is turned. */
class ModelsViewModel(private val services: Services, saved: SavedStateHandle = SavedStateHandle()) : ViewModel() {
    // What was imported is gone with the process that did it, and the right to read the picked file, too.
    // Not if it was done in the background, after the state had been saved.
    private val wasImporting =
        saved.get<Bundle>(SAVED)?.getBoolean(SAVED) == true && services.preferences.getBoolean(IMPORTING, false)
    private val _state = MutableStateFlow(ModelsState(problem = Problem.Interrupted.takeIf { wasImporting }))
    val state: StateFlow<ModelsState> = _state.asStateFlow()
    private var import: Job? = null

    init {
        saved.setSavedStateProvider(SAVED) { Bundle().apply { putBoolean(SAVED, state.value.importing != null) } }
        viewModelScope.launch {
            // A model may come or go without this screen: from a computer, or by what another screen selects.
            merge(services.models.state, services.startup.state, services.adapters.changes).conflate().collect {
                reload()
                delay(RELOAD_MS)
            }
        }
        viewModelScope.launch {
            services.otherApps.mayAsk.collect { may -> _state.update { it.copy(othersMayAsk = may) } }
        }
    }

    /** Imports what [open] gives; opening asks a documents provider and is done off the main thread, too. */
    fun import(open: () -> BundleSource) {
        if (import?.isActive == true) return
        _state.update { it.copy(importing = Importing(), problem = null, imported = null) }
        services.preferences.edit { putBoolean(IMPORTING, true) }
        import = viewModelScope.launch {
            try {
                reporting {
                    val bundle = withContext(services.io) {
                        val source = open()
                        _state.update { it.copy(importing = Importing(source.name, 0, source.totalBytes)) }
                        services.store.import(
                            source,
                            progress = { done, total -> _state.update { it.copy(importing = Importing(source.name, done, total)) } },
                            isCancelled = { !isActive },
                        ).also { services.models.refresh() }
                    }
                    reload()
                    _state.update { state -> state.copy(imported = state.models?.find { it.bundle.id == bundle.id }) }
                }
            } finally {
                // Else the system has taken this screen away, and the import with it: that is to be said.
                if (viewModelScope.isActive) services.preferences.edit { remove(IMPORTING) }
                _state.update { it.copy(importing = null) }
            }
        }
    }

    fun cancelImport() {
        import?.cancel()
    }

    /** Selects a model, or says why it cannot run here before anything is loaded. */
    fun select(item: ModelItem) {
        if (item.refusal != null) return fail(item.refusal)
        _state.update { it.copy(problem = null, imported = null) }
        viewModelScope.launch(services.io) { services.models.select(item.bundle.id) }
    }

    /** Adds an adapter to the model of this id: the file that [open] gives, which a documents provider is asked for. */
    fun addAdapter(id: String, open: () -> PickedFile) = change {
        val bundle = services.store.list().find { it.id == id } ?: throw BundleException(Problem.BundleGone(id))
        val program = chooseProgram(bundle.manifest ?: throw BundleException(Problem.NoManifest), services.phone.facts)
        val picked = open()
        picked.open().use { services.adapters.add(bundle, program, picked.name, it) }
    }

    /** Removes an adapter that was added. */
    fun removeAdapter(item: ModelItem, name: String) = change {
        services.models.unload() // the program may compute with it
        services.adapters.delete(item.bundle, name)
    }

    /** Runs [block] off the main thread; what goes wrong in it is shown. */
    private fun change(block: suspend () -> Unit) {
        _state.update { it.copy(problem = null) }
        viewModelScope.launch { reporting { withContext(services.io) { block() } } }
    }

    /** Runs [block], and shows what goes wrong in it. */
    private suspend fun reporting(block: suspend () -> Unit) {
        try {
            block()
        } catch (e: BundleException) {
            fail(e.problem)
        } catch (e: CancellationException) {
            throw e
        } catch (e: IOException) {
            fail(e.asProblem())
        } catch (e: RuntimeException) {
            fail(e.asProblem()) // a documents provider is foreign code: whatever it throws arrives here
        }
    }

    fun delete(item: ModelItem) {
        viewModelScope.launch {
            try {
                services.models.unload() // its files are mapped into memory while it is loaded
                services.embedders.unload()
                withContext(services.io) {
                    services.store.delete(item.bundle.id)
                    services.adapters.deleteAll(item.bundle.id)
                    services.models.refresh()
                }
            } catch (e: BundleException) {
                fail(e.problem)
            }
            _state.update { it.copy(imported = null) }
            reload()
        }
    }

    /** Whether other apps may ask the selected model. */
    fun letOthersAsk(may: Boolean) = services.otherApps.letAsk(may)

    fun dismiss() {
        _state.update { it.copy(problem = null, imported = null) }
    }

    private fun fail(problem: Problem) {
        _state.update { it.copy(problem = problem) }
    }

    private suspend fun reload() {
        val models = withContext(services.io) {
            services.store.list().map { bundle ->
                val item = bundle.judge(services.phone, services.models.bundle?.id)
                item.copy(adapters = item.program?.let { services.adapters.list(bundle, it) }.orEmpty())
            }
        }
        _state.update { it.copy(models = models) }
    }

    companion object {
        private const val SAVED = "is_importing"
        private const val IMPORTING = "importing" // until it is done, also when the process ends

        val Factory = viewModelFactory {
            initializer { ModelsViewModel((this[APPLICATION_KEY] as DemoApp).services, createSavedStateHandle()) }
        }
    }
}

private fun Exception.asProblem() = Problem.Storage(message?.lineSequence()?.first() ?: javaClass.simpleName)

/** What [phone] can do with this bundle, from its manifest alone. */
fun StoredBundle.judge(phone: Phone, selected: String?): ModelItem {
    val manifest = manifest
    if (manifest == null || problem != null) return ModelItem(this, refusal = problem ?: Problem.NoManifest)
    var program: Program? = null
    val refusal = try {
        program = chooseProgram(manifest, phone.facts)
        requireMemory(manifest.memoryOf(program), phone.totalRam, phone.freeRam)
        null
    } catch (e: BundleException) {
        e.problem
    }
    return ModelItem(
        bundle = this,
        selected = id == selected,
        totalRam = phone.totalRam,
        fit = memoryFit(manifest.memoryOf(program), phone.totalRam, phone.freeRam),
        program = program,
        refusal = refusal,
        measured = manifest.speedOf(program).on(phone.name),
    )
}

/** The figures of this phone if somebody measured here, else the first ones that there are. */
fun List<Speed>.on(phone: String): Measured? =
    find { it.where.equals(phone, ignoreCase = true) }?.let { Measured(it, here = true) }
        ?: firstOrNull()?.let { Measured(it, here = false) }

/** The task that changed most for the worse, with the change in points; null if no task was scored. */
val Quality.worstTask: Pair<String, Double>?
    get() = tasks.mapValues { (_, score) -> score.deployed - score.original }.minByOrNull { it.value }?.toPair()

/** The lowest share of next tokens, over all ways of feeding, that equal the original model's. */
val Quality.lowestTop1: Double?
    get() = agreement?.original?.run { minOf(onePiece.top1, chunked.top1, tokenByToken.top1) }
