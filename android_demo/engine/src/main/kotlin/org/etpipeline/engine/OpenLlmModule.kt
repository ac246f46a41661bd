package org.etpipeline.engine

import java.io.File
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.pytorch.executorch.extension.llm.LlmModule
import org.pytorch.executorch.extension.llm.LlmModuleConfig

/**
 * ExecuTorch's own runner of a language model, in memory.
 *
 * @param weights the file with the program's weights, if they are not in the program.
 * @param isWanted see [OpenProgram].
 * @throws EngineException a file is missing, or not what it should be.
 */
internal class OpenLlmModule(
    private val program: File,
    private val tokenizer: File,
    private val weights: File?,
    isWanted: () -> Boolean,
) : OpenProgram(isWanted) {
    private var created: LlmModule? = null

    /** Only while the program is [used]. */
    val module: LlmModule get() = checkNotNull(created)

    init {
        checkProgram(program)
        checkTokenizer(tokenizer)
        weights?.let(::checkWeights)
        open()
    }

    override fun create() {
        val config = LlmModuleConfig.create()
            .modulePath(program.path)
            .tokenizerPath(tokenizer.path)
            .temperature(-1f) // below zero: the one of each generation counts
            .dataPath(weights?.path)
            .loadMode(LlmModuleConfig.LOAD_MODE_MMAP) // what is read into memory is a copy, which nothing changes
            .build()
        created = try {
            LlmModule(config)
        } catch (error: RuntimeException) {
            // Of the program only its header has been read, and that was checked above.
            throw EngineException(Problem.BadTokenizer(tokenizer.name), error)
        }
    }

    override fun loadMethods() = try {
        module.load()
        Unit
    } catch (error: RuntimeException) {
        throw EngineException(problemOf(error), error)
    }

    override fun destroy() {
        created?.close()
        created = null
    }

    /** A runner that is not even created means the tokenizer, for the same reason. */
    private fun problemOf(error: RuntimeException): Problem =
        if ("runner was not created" in error.message.orEmpty()) {
            Problem.BadTokenizer(tokenizer.name)
        } else {
            Problem.BadProgram(error.shortReason())
        }
}
