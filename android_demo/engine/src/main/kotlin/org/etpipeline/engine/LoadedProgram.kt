package org.etpipeline.engine

import java.io.File
import java.nio.LongBuffer
import org.etpipeline.core.EngineException
import org.pytorch.executorch.Tensor

/**
 * A language model's program in memory, called as `forward(tokens [1, S], position [1])`, logits `[1, vocabulary]`.
 *
 * @param isWanted see [OpenProgram].
 * @throws EngineException the file is missing, or no program of this kind.
 */
internal class LoadedProgram(file: File, threads: Int, isWanted: () -> Boolean) : AutoCloseable {
    private val module = OpenModule(file, threads, isWanted)
    private val position = Tensor.allocateLongBuffer(1)
    private val one = Tensor.allocateLongBuffer(1)
    private var loads = module.loads

    /**
     * Runs [block], which feeds the program, while no other one is opened.
     *
     * @param onForgotten is called before, if one was opened since the last time: then nothing of what was fed is left.
     */
    fun <T> used(onForgotten: () -> Unit, block: () -> T): T = module.used {
        if (loads != module.loads) onForgotten()
        loads = module.loads
        block()
    }

    /**
     * Feeds [tokens] behind what was fed up to [start]; only while the program is [used].
     *
     * @return logits after the last of them, one per token of the vocabulary.
     * @throws EngineException the runtime failed; what the program remembers is not known then.
     */
    fun forward(tokens: IntArray, start: Int): FloatArray {
        position.put(0, start.toLong())
        val ids: LongBuffer = if (tokens.size == 1) one else Tensor.allocateLongBuffer(tokens.size)
        tokens.forEachIndexed { at, token -> ids.put(at, token.toLong()) }
        val shape = longArrayOf(1, tokens.size.toLong())
        return module.forward(Tensor.fromBlob(ids, shape), Tensor.fromBlob(position, ONE))
    }

    override fun close() = module.close()

    private companion object {
        val ONE = longArrayOf(1)
    }
}
