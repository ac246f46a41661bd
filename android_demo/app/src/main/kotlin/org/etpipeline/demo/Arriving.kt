package org.etpipeline.demo

import android.os.Bundle
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.ViewModel
import androidx.lifecycle.createSavedStateHandle
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory

/**
 * Characters of a text that are kept for the next process. What an app has the system save passes through a buffer of a
 * megabyte, and more ends the app; a text that another app has shared may be as long.
 */
internal const val MOST_SAVED = 20_000

/** Texts on their way to a screen: all of them while the process lives, then their first [MOST_SAVED] characters. */
class Arriving(saved: SavedStateHandle) : ViewModel() {
    private val before = saved.get<Bundle>(SAVED)

    /** What another app has shared, or what was selected in it, until it is known what for. */
    var shared by mutableStateOf(before?.getString(SHARED))

    /** What another screen wants to ask in the chat. */
    var asked by mutableStateOf(before?.getString(ASKED).orEmpty())

    init {
        saved.setSavedStateProvider(SAVED) {
            Bundle().apply {
                putString(SHARED, shared?.take(MOST_SAVED))
                putString(ASKED, asked.take(MOST_SAVED))
            }
        }
    }

    companion object {
        private const val SAVED = "arriving"
        private const val SHARED = "shared"
        private const val ASKED = "asked"

        val Factory = viewModelFactory { initializer { Arriving(createSavedStateHandle()) } }
    }
}
