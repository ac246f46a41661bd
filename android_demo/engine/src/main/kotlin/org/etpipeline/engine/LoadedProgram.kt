package org.etpipeline.engine

import java.io.File
import java.nio.LongBuffer
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * A language model's program in memory, called as `forward(tokens [1, S], position [1])`, logits `[1, vocabulary]`.
 *
 * @throws EngineException the file is missing, or no program of this kind.
 */
internal class LoadedProgram(file: File, threads: Int) : AutoCloseable {
    private val module: Module
    private val position = Tensor.allocateLongBuffer(1)
    private val one = Tensor.allocateLongBuffer(1)

    init {
        checkProgram(file)
        try {
            // Mapped and not locked: a table of which each token needs a row stays out of memory.
            module = Module.load(file.path, Module.LOAD_MODE_MMAP, threads)
        } catch (error: RuntimeException) {
            throw EngineException(Problem.BadProgram(error.shortReason()), error)
        }
        try {
            module.loadMethod(FORWARD)
        } catch (error: RuntimeException) {
            module.destroy()
            throw EngineException(Problem.BadProgram(error.shortReason()), error)
        }
    }

    /**
     * Feeds [tokens] behind what was fed up to [start].
     *
     * @return logits after the last of them, one per token of the vocabulary.
     * @throws EngineException the runtime failed; what the program remembers is not known then.
     */
    fun forward(tokens: IntArray, start: Int): FloatArray {
        position.put(0, start.toLong())
        val ids: LongBuffer = if (tokens.size == 1) one else Tensor.allocateLongBuffer(tokens.size)
        tokens.forEachIndexed { at, token -> ids.put(at, token.toLong()) }
        val shape = longArrayOf(1, tokens.size.toLong())
        try {
            val inputs = arrayOf(EValue.from(Tensor.fromBlob(ids, shape)), EValue.from(Tensor.fromBlob(position, ONE)))
            return module.execute(FORWARD, *inputs).single().toTensor().dataAsFloatArray
        } catch (error: RuntimeException) {
            throw EngineException(Problem.EngineFailed(error.shortReason()), error)
        }
    }

    override fun close() = module.destroy()

    private companion object {
        const val FORWARD = "forward"
        val ONE = longArrayOf(1)
    }
}
