package org.etpipeline.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.nio.file.Files
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import kotlinx.serialization.KSerializer
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json

private const val ENDING = ".json"
private const val HALF_WRITTEN = ".tmp"
private val ID = Regex("[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
private val JSON = Json { ignoreUnknownKeys = true } // an older app must still read what a newer one wrote

/**
 * Small documents on disk, one JSON file each, written whole or not at all.
 *
 * Calls may come from any thread, but there must be only one `JsonFolder` for a folder.
 *
 * @param folder where they lie; it is made when it is missing.
 * @param serializer of a document, such as `Note.serializer()`.
 */
class JsonFolder<T>(private val folder: File, private val serializer: KSerializer<T>) {
    /**
     * All documents by id.
     *
     * One that cannot be understood is moved aside to `<id>.broken`: the user may still want what is in it, and it must
     * not keep the app from starting.
     */
    @Synchronized
    fun all(): Map<String, T> {
        val files = folder.listFiles().orEmpty()
        files.filter { it.name.endsWith(HALF_WRITTEN) }.forEach { it.delete() } // the app was killed while it wrote
        return files.map { it.name }.filter { it.endsWith(ENDING) }.map { it.removeSuffix(ENDING) }.sorted()
            .mapNotNull { id -> read(id)?.let { id to it } }
            .toMap()
    }

    /** The document of this id; null if there is none that can be read. */
    @Synchronized
    fun read(id: String): T? {
        val file = fileOf(id) ?: return null
        return try {
            JSON.decodeFromString(serializer, file.readText())
        } catch (_: IOException) {
            null // it may be readable another time
        } catch (_: SerializationException) {
            moveAside(file)
        } catch (_: IllegalArgumentException) { // a document that its own class refuses
            moveAside(file)
        } catch (_: StackOverflowError) {
            moveAside(file)
        }
    }

    /**
     * Writes a document, or leaves the one of before as it was.
     *
     * @param id letters, digits, `.`, `_` and `-`, not beginning with a dot.
     * @throws BundleException [Problem.Storage] if it cannot be written.
     */
    @Synchronized
    fun write(id: String, value: T) {
        val file = requireNotNull(fileOf(id)) { "'$id' cannot name a file" }
        val temporary = File(folder, id + HALF_WRITTEN)
        try {
            Files.createDirectories(folder.toPath())
            FileOutputStream(temporary).use { stream ->
                stream.write(JSON.encodeToString(serializer, value).toByteArray())
                stream.fd.sync()
            }
            Files.move(temporary.toPath(), file.toPath(), ATOMIC_MOVE)
            syncFolder(folder)
        } catch (error: IOException) {
            temporary.delete()
            throw BundleException(storageProblem(error), error)
        }
    }

    /** Removes a document if it is there. */
    @Synchronized
    fun delete(id: String) {
        fileOf(id)?.delete()
    }

    private fun fileOf(id: String): File? = if (ID.matches(id)) File(folder, id + ENDING) else null

    private fun moveAside(file: File): T? {
        val stem = file.name.removeSuffix(ENDING)
        val free = generateSequence(1) { it + 1 }
            .map { File(folder, if (it == 1) "$stem.broken" else "$stem.broken-$it") }
            .first { !it.exists() }
        file.renameTo(free)
        return null
    }
}
