package org.etpipeline.core

import java.io.File
import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.file.StandardOpenOption.READ
import java.nio.file.StandardOpenOption.WRITE

/** Makes sure that a file is on the disk, whoever wrote it. */
internal fun syncFile(file: File) = FileChannel.open(file.toPath(), WRITE).use { it.force(true) }

/** Makes sure that a folder's list of files is on the disk. */
internal fun syncFolder(folder: File) {
    try {
        FileChannel.open(folder.toPath(), READ).use { it.force(true) }
    } catch (_: IOException) {
        // Not every file system can do it. On one that cannot, the rename is as safe as it gets.
    }
}

/** An error of the file system in the system's own words. */
internal fun storageProblem(error: Exception): Problem =
    Problem.Storage(error.message.orEmpty().lineSequence().first().take(200).ifEmpty { error.javaClass.simpleName })
