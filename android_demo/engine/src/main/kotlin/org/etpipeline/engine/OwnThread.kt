package org.etpipeline.engine

import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.withContext
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem

/** The one thread that a native model belongs to, from loading to closing. */
internal class OwnThread {
    private val executor = Executors.newSingleThreadExecutor { Thread(it, "llm") }
    private val dispatcher = executor.asCoroutineDispatcher()

    @Volatile private var isClosed = false

    /** Whether what waits will still be run. */
    val isOpen: Boolean get() = !isClosed

    /**
     * Runs [block] there, after what was asked before.
     *
     * @throws EngineException [Problem.EngineClosed].
     */
    suspend fun <T> run(block: () -> T): T {
        if (isClosed) throw EngineException(Problem.EngineClosed)
        return try {
            withContext(dispatcher) {
                if (isClosed) throw EngineException(Problem.EngineClosed)
                block()
            }
        } catch (error: RejectedExecutionException) {
            throw EngineException(Problem.EngineClosed, error)
        }
    }

    /** Runs [last] there, once, after what runs now; what waits, and what comes, is refused. */
    fun close(last: () -> Unit) {
        if (isClosed) return
        isClosed = true
        executor.execute(last)
        executor.shutdown()
    }
}
