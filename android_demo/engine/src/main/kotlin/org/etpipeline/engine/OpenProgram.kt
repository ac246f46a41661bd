package org.etpipeline.engine

import java.util.concurrent.locks.ReentrantReadWriteLock
import kotlin.concurrent.read
import kotlin.concurrent.write
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem

/**
 * A program that this process has loaded, one of any number.
 *
 * Creating a native module replaces the pool of threads of the whole process. A method that was loaded before keeps the
 * old one, and crashes at its next call; one that is loaded afterwards has the new one, whenever its module was created.
 * So when a program is opened, those that were open are created and loaded again: all modules first, then all methods.
 * What they remember is gone then, and [loads] tells it. Nothing of that happens while one of them is [used].
 *
 * @param isWanted whether it will still be used: one that is about to be closed is not loaded again.
 */
internal abstract class OpenProgram(private val isWanted: () -> Boolean) : AutoCloseable {
    /** How often it was loaded. Stays as it is while the program is [used]. */
    @Volatile
    var loads = 0
        private set

    private var isReady = false

    /** Creates the native module, without its methods. */
    protected abstract fun create()

    protected abstract fun loadMethods()

    /** Frees the native module, if there is one. */
    protected abstract fun destroy()

    /** Opens it, when no program is used any more. Any [EngineException] comes out, and the others work on. */
    protected fun open() = lock.write {
        programs.forEach { it.destroy() }
        programs.removeAll { !it.isWanted() }
        val others = programs.toList()
        val problem = attempt { create() }
        val failed = others.filter { other -> attempt { other.create() } != null }
        val late = problem ?: attempt { load() }
        for (other in others) other.isReady = other !in failed && attempt { other.load() } == null
        if (late != null) {
            destroy()
            throw late
        }
        programs += this
    }

    private fun load() {
        loadMethods()
        loads++
        isReady = true
    }

    /**
     * Runs [block], which uses the program. Others may be used meanwhile, but none is opened or closed.
     *
     * @throws EngineException it could not be loaded again when another one was opened.
     */
    fun <T> used(block: () -> T): T = lock.read {
        if (!isWanted()) throw EngineException(Problem.EngineClosed)
        if (!isReady) throw EngineException(Problem.EngineFailed("the program could not be loaded again"))
        block()
    }

    override fun close() = lock.write {
        if (programs.remove(this)) destroy()
    }

    private companion object {
        val lock = ReentrantReadWriteLock(true)
        val programs = mutableListOf<OpenProgram>() // guarded by lock

        fun attempt(block: () -> Unit): EngineException? = try {
            block()
            null
        } catch (error: EngineException) {
            error
        }
    }
}
