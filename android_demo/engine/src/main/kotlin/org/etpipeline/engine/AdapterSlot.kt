package org.etpipeline.engine

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem

/**
 * The file that a program which takes adapters reads its adapter from, at each call: a copy of its weights' file.
 *
 * The runtime maps it to memory shared with the file, and the program's own operators read it there. So what is written
 * over it is what the loaded program computes with from then on, and nothing of the base is read again.
 *
 * @param empty the weights' file of the bundle: an adapter of zeros, which is none.
 * @param file the copy, made anew; no other engine may have it.
 */
internal class AdapterSlot(private val empty: File, val file: File) {
    private val index: ByteArray // all before the numbers: which tensors there are, and where

    init {
        checkWeights(empty)
        index = indexOf(empty)
        file.delete() // and not overwritten: an engine that is still closing may have it mapped
        empty.copyTo(file)
    }

    /**
     * Writes [adapter] into the file, or none.
     *
     * @throws EngineException it is missing or broken, or for another program.
     */
    fun put(adapter: File?) {
        val source = adapter ?: empty
        checkWeights(source)
        if (source.length() != file.length() || !indexOf(source).contentEquals(index)) {
            throw EngineException(Problem.BadProgram("the adapter is for another one"))
        }
        try {
            // In place and never shorter: the program has it mapped.
            RandomAccessFile(file, "rw").use { it.write(source.readBytes()) }
        } catch (error: IOException) {
            throw EngineException(Problem.EngineFailed("the adapter cannot be written"), error)
        }
    }

    private fun indexOf(weights: File): ByteArray {
        val numbers = checkNotNull(header(weights, WEIGHTS_HEADER_BYTES, WEIGHTS_NAMES)).getLong(NUMBERS_AT)
        return RandomAccessFile(weights, "r").use { file -> ByteArray(numbers.toInt()).also(file::readFully) }
    }
}
