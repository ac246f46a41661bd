package org.etpipeline.engine

import java.io.File
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * A program whose one method is `forward`, in memory.
 *
 * @param isWanted see [OpenProgram].
 * @throws EngineException the file is missing, or no program of this kind.
 */
internal class OpenModule(private val file: File, private val threads: Int, isWanted: () -> Boolean) :
    OpenProgram(isWanted) {
    private var module: Module? = null

    init {
        checkProgram(file)
        open()
    }

    override fun create() = refusing {
        // Mapped and not locked: a table of which each token needs a row stays out of memory.
        module = Module.load(file.path, Module.LOAD_MODE_MMAP, threads)
    }

    override fun loadMethods() = refusing { checkNotNull(module).loadMethod(FORWARD) }

    override fun destroy() {
        module?.destroy()
        module = null
    }

    /**
     * Calls `forward`; only while the program is [used].
     *
     * @throws EngineException the runtime failed; what the program remembers is not known then.
     */
    fun forward(vararg inputs: Tensor): FloatArray = try {
        val values = inputs.map { EValue.from(it) }.toTypedArray()
        checkNotNull(module).execute(FORWARD, *values).single().toTensor().dataAsFloatArray
    } catch (error: RuntimeException) {
        throw EngineException(Problem.EngineFailed(error.shortReason()), error)
    }

    private fun refusing(block: () -> Unit) = try {
        block()
    } catch (error: RuntimeException) {
        throw EngineException(Problem.BadProgram(error.shortReason()), error)
    }

    private companion object {
        const val FORWARD = "forward"
    }
}
