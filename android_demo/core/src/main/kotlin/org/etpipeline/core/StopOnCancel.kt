package org.etpipeline.core

import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * Runs [block] to its end even if the caller is cancelled, but stops the engine then, so that the end comes soon.
 *
 * So the caller of `generate` always learns what the context holds. The cancellation is thrown after the block.
 *
 * @param block gets a function that tells whether the caller is cancelled.
 */
internal suspend fun <T> LlmEngine.stoppedOnCancel(
    block: suspend (isCancelled: () -> Boolean) -> T,
): T = coroutineScope {
    var isRunning = true
    // Unconfined: stops at once, on the thread that cancels.
    val watcher = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
        try {
            awaitCancellation()
        } finally {
            if (isRunning) stop()
        }
    }
    try {
        withContext(NonCancellable) { block { !this@coroutineScope.isActive } }
    } finally {
        isRunning = false
        watcher.cancel()
    }
}
