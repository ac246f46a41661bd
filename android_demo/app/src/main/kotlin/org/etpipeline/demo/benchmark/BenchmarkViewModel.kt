package org.etpipeline.demo.benchmark

import android.content.ContentResolver
import android.content.SharedPreferences
import android.net.Uri
import android.os.Bundle
import androidx.core.content.edit
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider.AndroidViewModelFactory.Companion.APPLICATION_KEY
import androidx.lifecycle.createSavedStateHandle
import androidx.lifecycle.viewModelScope
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.serialization.json.Json
import org.etpipeline.core.BenchmarkPlan
import org.etpipeline.core.BenchmarkReport
import org.etpipeline.core.BenchmarkSubject
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Phase
import org.etpipeline.core.Problem
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.runBenchmark
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.Services
import org.etpipeline.demo.writeTo

/**
 * What the benchmark screen shows.
 *
 * @property progress null unless it runs.
 * @property isPlugged whether the phone is being charged, so that the battery tells nothing; null if it has no counter.
 */
data class BenchmarkState(
    val bundle: StoredBundle? = null,
    val plan: BenchmarkPlan = BenchmarkPlan(),
    val progress: Progress? = null,
    val report: BenchmarkReport? = null,
    val problem: Problem? = null,
    val isPlugged: Boolean? = null,
) {
    /** Rounds that are done, of how many, and what is done now. */
    data class Progress(val done: Int, val of: Int, val phase: Phase)

    /** Length of the context, whichever program runs: what prompt and answer have to share. */
    val maxContext: Int get() = bundle?.manifest?.programs?.minOf { it.maxContext } ?: 0
}

/** Measures the selected model. A measurement goes on when the screen is turned. */
class BenchmarkViewModel(private val services: Services, saved: SavedStateHandle = SavedStateHandle()) : ViewModel() {
    private val before: Bundle? = saved[SAVED] // what an earlier process left
    private val _state = MutableStateFlow(BenchmarkState(services.models.bundle).restored(before, services.preferences))
    val state: StateFlow<BenchmarkState> = _state.asStateFlow()
    private var job: Job? = null

    init {
        saved.setSavedStateProvider(SAVED) { state.value.toBundle() }
        viewModelScope.launch {
            var shown = before?.getString(BUNDLE) ?: state.value.bundle?.id
            services.models.state.collect {
                val chosen = services.models.bundle
                val isKnown = chosen != null || state.value.bundle != null // else the store is still being read
                if (isKnown && shown != null && shown != chosen?.id) {
                    job?.cancel() // its report would be taken for that of the model that is shown now
                    _state.update { it.copy(report = null, problem = null) }
                }
                shown = chosen?.id ?: shown
                _state.update { it.copy(bundle = chosen) }
            }
        }
        viewModelScope.launch(services.io) { lookAtPlug() }
    }

    private fun lookAtPlug() {
        val battery = services.phone.battery()
        _state.update { it.copy(isPlugged = battery?.plugged) }
    }

    fun change(plan: BenchmarkPlan) = _state.update { it.copy(plan = plan) }

    fun start() {
        if (job?.isActive == true) return
        val plan = state.value.plan
        val progress = BenchmarkState.Progress(0, plan.rounds, Phase.LOAD)
        _state.update { it.copy(progress = progress, report = null, problem = null) }
        services.preferences.edit { putBoolean(MEASURING, true).remove(MEASURED) }
        job = viewModelScope.launch(Dispatchers.Default) {
            try {
                lookAtPlug()
                val report = measure(services, plan) { done, of, phase ->
                    _state.update { it.copy(progress = BenchmarkState.Progress(done, of, phase)) }
                }
                _state.update { it.copy(report = report) }
                services.preferences.edit { putString(MEASURED, report.toJson()) }
            } catch (error: EngineException) {
                _state.update { it.copy(problem = error.problem) }
            } catch (error: BundleException) {
                _state.update { it.copy(problem = error.problem) }
            } finally {
                // Else the system has taken this screen away, and the measurement with it: that is to be said.
                if (viewModelScope.isActive) services.preferences.edit { remove(MEASURING) }
                _state.update { it.copy(progress = null) }
            }
        }
    }

    fun cancel() {
        job?.cancel()
    }

    fun dismiss() = _state.update { it.copy(problem = null) }

    /** Writes the report to where the user has chosen. */
    fun export(resolver: ContentResolver, place: Uri) {
        val report = state.value.report ?: return
        viewModelScope.launch {
            val problem = services.writeTo(resolver, place, report.toJson())
            if (problem != null) _state.update { it.copy(problem = problem) }
        }
    }

    companion object {
        val Factory = viewModelFactory {
            initializer { BenchmarkViewModel((this[APPLICATION_KEY] as DemoApp).services, createSavedStateHandle()) }
        }
    }
}

private const val SAVED = "benchmark"
private const val BUNDLE = "bundle"
private const val PLAN = "plan"
private const val REPORT = "report"
private const val IS_RUNNING = "is_running"

// Of the preferences, which also know what is done in the background after the state was saved.
private const val MEASURING = "measuring"
private const val MEASURED = "measured"

/** What the next process needs to know. A measurement that runs ends with this one. */
private fun BenchmarkState.toBundle() = Bundle().apply {
    putString(BUNDLE, bundle?.id)
    putIntArray(PLAN, intArrayOf(plan.promptTokens, plan.decodeTokens, plan.rounds))
    putString(REPORT, report?.toJson())
    putBoolean(IS_RUNNING, progress != null)
}

private fun BenchmarkState.restored(saved: Bundle?, preferences: SharedPreferences): BenchmarkState {
    val (prompt, answer, rounds) = saved?.getIntArray(PLAN) ?: return this
    val wasRunning = saved.getBoolean(IS_RUNNING)
    val report = if (wasRunning) preferences.getString(MEASURED, null) else saved.getString(REPORT)
    return copy(
        plan = BenchmarkPlan(prompt, answer, rounds),
        report = report?.let { Json.decodeFromString(BenchmarkReport.serializer(), it) },
        problem = Problem.Interrupted.takeIf { wasRunning && preferences.getBoolean(MEASURING, false) },
    )
}

/** Measures the selected model alone: what is loaded is freed before. */
suspend fun measure(
    services: Services,
    plan: BenchmarkPlan,
    onProgress: (done: Int, of: Int, phase: Phase) -> Unit = { _, _, _ -> },
): BenchmarkReport {
    services.embedders.unload()
    return services.models.useFresh { bundle, program, newEngine ->
        val subject = BenchmarkSubject(checkNotNull(bundle.manifest), program)
        runBenchmark({ newEngine() }, plan, program.maxContext, services.phone, subject, onProgress)
    }
}
