package org.etpipeline.engine

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.text.Normalizer
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import org.etpipeline.core.Adapter
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.StoredBundle

private const val ENDING = ".ptd"
private const val ADDING = ".adding"
private const val LONGEST_NAME = 120 // bytes in UTF-8; a file's name may have 255
private val NOT_FOR_NAMES = Regex("""[^\p{L}\p{M}\p{N}._-]+""")

/**
 * An adapter that a program can compute with.
 *
 * @property name how it is chosen and shown.
 * @property file its weights.
 * @property bytes that it takes on disk.
 * @property said what the bundle's manifest says of it; null: the user has added it, and nobody has measured it.
 */
data class KnownAdapter(val name: String, val file: File, val bytes: Long, val said: Adapter?)

/**
 * The adapters of bundles: those inside, and those that the user has added, which lie in a folder of their own, as a
 * bundle stays as it was made. All calls block; make them on a thread for it.
 *
 * @param root folder for them only, in the app's own storage; there must be only one `AdapterStore` for it.
 */
class AdapterStore(private val root: File) {
    init {
        // The app was killed while it added them.
        root.walk().maxDepth(2).filter { it.name.startsWith(ADDING) }.forEach { it.delete() }
    }

    private val _changes = MutableStateFlow(0)

    /** Grows whenever an adapter comes or goes. */
    val changes: StateFlow<Int> = _changes.asStateFlow()

    /** What [program] of this bundle can compute with: first what the manifest lists, then what was added, by name. */
    fun list(bundle: StoredBundle, program: Program): List<KnownAdapter> {
        if (program.adapterRank == 0) return emptyList()
        val inside = checkNotNull(bundle.manifest).adapters.filter { it.program == program.file }
            .map { known(it.name, File(bundle.folder, it.file), it) }
        val added = folderOf(bundle.id).listFiles { file -> file.name.endsWith(ENDING) }.orEmpty().sorted()
            .map { known(it.name.removeSuffix(ENDING), it, said = null) }
        return inside + added
    }

    /**
     * The file of the adapter [name].
     *
     * @throws BundleException [Problem.NoAdapter]: none of those that [program] can compute with is called so.
     */
    fun find(name: String, bundle: StoredBundle, program: Program): File =
        list(bundle, program).find { it.name == name }?.file
            ?: throw BundleException(Problem.NoAdapter(name, checkNotNull(bundle.manifest).what.name))

    /**
     * Adds an adapter for [program], after it was checked. What it does not tell is for which weights it was trained:
     * one of a model with the same shapes is taken.
     *
     * @param fileName of the file that it comes from, after which it is called.
     * @throws BundleException it is damaged or for another program, there is one of its name, or it cannot be written.
     */
    fun add(bundle: StoredBundle, program: Program, fileName: String, content: InputStream): KnownAdapter {
        val name = nameFor(fileName)
        requireNew(name, bundle, program)
        val empty = File(bundle.folder, program.weights.single())
        val folder = folderOf(bundle.id)
        var temporary: File? = null
        try {
            Files.createDirectories(folder.toPath())
            temporary = File.createTempFile(ADDING, null, folder) // another one may be added at the same time
            copy(content, temporary, empty.length())
            check(temporary, empty, fileName)
            val file = File(folder, name + ENDING)
            synchronized(this) {
                requireNew(name, bundle, program) // while this one was read
                Files.move(temporary.toPath(), file.toPath(), ATOMIC_MOVE)
            }
            _changes.update { it + 1 }
            return known(name, file, said = null)
        } catch (error: IOException) {
            throw BundleException(Problem.Storage(error.message ?: "the adapter cannot be written"), error)
        } finally {
            temporary?.delete()
        }
    }

    private fun requireNew(name: String, bundle: StoredBundle, program: Program) {
        if (list(bundle, program).any { it.name == name }) throw BundleException(Problem.DuplicateAdapter(name))
    }

    /** Removes an adapter that was added. Nobody may compute with it. */
    fun delete(bundle: StoredBundle, name: String) {
        File(folderOf(bundle.id), name + ENDING).delete()
        _changes.update { it + 1 }
    }

    /** Removes all that was added to a bundle. */
    fun deleteAll(bundleId: String) {
        if (folderOf(bundleId).deleteRecursively()) _changes.update { it + 1 }
    }

    /** A name of any script that can be a file's. */
    private fun nameFor(fileName: String): String {
        val whole = Normalizer.normalize(fileName.removeSuffix(ENDING), Normalizer.Form.NFC)
        var name = whole.replace(NOT_FOR_NAMES, "_").trimStart('.', '-', '_').take(LONGEST_NAME + 1)
        while (name.toByteArray().size > LONGEST_NAME) name = name.take(name.offsetByCodePoints(name.length, -1))
        return name.ifEmpty { "adapter" }
    }

    private fun known(name: String, file: File, said: Adapter?) = KnownAdapter(name, file, file.length(), said)

    private fun folderOf(bundleId: String) = File(root, bundleId)

    /** No more of it than an adapter of this program has: whatever the user picked must not fill the storage. */
    private fun copy(content: InputStream, to: File, bytes: Long) = to.outputStream().use { out ->
        val block = ByteArray(1 shl 16)
        var left = bytes
        while (true) {
            val count = content.read(block)
            if (count < 0) break
            left -= count
            out.write(block, 0, count)
            if (left < 0) break // [check] says whether it is one for another program
        }
        out.fd.sync()
    }

    private fun check(adapter: File, empty: File, fileName: String) {
        try {
            checkAdapter(adapter, empty)
            if (!isFinite(adapter)) throw EngineException(Problem.DamagedAdapter(adapter.name))
        } catch (error: EngineException) {
            val named = if (error.problem is Problem.ForeignAdapter) {
                Problem.ForeignAdapter(fileName)
            } else {
                Problem.DamagedAdapter(fileName)
            }
            throw BundleException(named, error)
        }
    }
}
