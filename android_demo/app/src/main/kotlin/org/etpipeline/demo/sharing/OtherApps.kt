package org.etpipeline.demo.sharing

import android.content.SharedPreferences
import androidx.core.content.edit
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import org.etpipeline.demo.engine.ModelHolder

/**
 * What other apps may do here, beside the permission that the user grants to each of them; and how long the model stays
 * loaded for them.
 *
 * @param freedAfterMs how long the model stays when nobody uses it any more: an app that is turned round comes back at
 *   once.
 */
class OtherApps(
    private val preferences: SharedPreferences,
    private val models: ModelHolder,
    private val freedAfterMs: Long = 5_000,
) {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private var freeing: Job? = null // main thread
    @Volatile private var isBound = false
    private val _mayAsk = MutableStateFlow(preferences.getBoolean(MAY_ASK, false))

    /** Whether this app is on the screen, and may be asking the model itself; the activity says so. */
    @Volatile var isShown = false
        set(value) {
            field = value
            if (!value && isBound) freeIfUnused()
        }

    /** Whether the model answers them; not before the user says so. */
    val mayAsk: StateFlow<Boolean> = _mayAsk.asStateFlow()

    /** Takes down what the user wants. */
    fun letAsk(may: Boolean) {
        preferences.edit { putBoolean(MAY_ASK, may) }
        _mayAsk.value = may
        if (!may && isBound) freeIfUnused()
    }

    /** The first one has come: the model stays while it may be asked, unless the phone is short of memory. */
    fun onBound() {
        isBound = true
    }

    /** The last one has gone: the model goes, unless it is used here. */
    fun onUnbound() {
        isBound = false
        freeIfUnused()
    }

    private fun freeIfUnused() {
        freeing?.cancel()
        freeing = scope.launch {
            delay(freedAfterMs)
            if (!isShown && !(isBound && mayAsk.value)) models.unload()
        }
    }

    private companion object {
        const val MAY_ASK = "other_apps_may_ask"
    }
}
