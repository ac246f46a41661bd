package org.etpipeline.engine

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.channels.Channels
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
 * @throws EngineException it cannot be written: the storage is full.
 */
internal class AdapterSlot(private val empty: File, val file: File) {
    private var holds: File? = empty // null: what is in it is not known

    init {
        checkWeights(empty)
        file.delete() // and not overwritten: an engine that is still closing may have it mapped
        try {
            empty.copyTo(file)
        } catch (error: IOException) {
            file.delete() // a part of it would only take room
            throw EngineException(Problem.Storage(error.message ?: "the adapter's place cannot be made"), error)
        }
    }

    /**
     * Writes [adapter] into the file, or none.
     *
     * @return whether it was not there before.
     * @throws EngineException it is missing, damaged or for another program.
     */
    fun put(adapter: File?): Boolean {
        val source = adapter ?: empty
        if (source == holds) return false
        checkAdapter(source, empty)
        holds = null
        try {
            // In place and never shorter: the program has it mapped.
            RandomAccessFile(file, "rw").use { to ->
                source.inputStream().use { it.copyTo(Channels.newOutputStream(to.channel)) }
            }
        } catch (error: IOException) {
            throw EngineException(Problem.EngineFailed("the adapter cannot be written"), error)
        }
        holds = source
        return true
    }
}
