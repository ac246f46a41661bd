package org.etpipeline.core

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.file.Files
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.security.MessageDigest
import java.util.UUID
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock
import kotlinx.coroutines.CancellationException

private const val IMPORTING = ".importing-"
private const val DELETING = ".deleting-"
private const val RESERVE = 32L shl 20 // left free on the disk: a full one breaks other apps
private const val BLOCK = 1 shl 17
private val NOT_FOR_FOLDERS = Regex("[^A-Za-z0-9._-]")

// Of the whole process: two stores over the same folder are still one folder.
private val runningImports: MutableSet<File> = ConcurrentHashMap.newKeySet()
private val commit = ReentrantLock()

/**
 * A bundle in the store.
 *
 * @property id names its folder; keep this to find the bundle again.
 * @property manifest null if it cannot be read.
 * @property problem why it cannot be used; null if all is well as far as that shows without reading all of it.
 * @property bytes that it takes on disk.
 */
data class StoredBundle(
    val id: String,
    val folder: File,
    val manifest: Manifest?,
    val problem: Problem?,
    val bytes: Long,
) {
    /** Whether it turns texts into vectors; else there is a model in it to talk to. */
    val embeds: Boolean get() = manifest?.embedding != null
}

/**
 * The bundles of an app, each a folder below [root].
 *
 * A bundle is there whole or not at all: an import writes beside the others, checks everything on the way and renames
 * at its end. All calls block; make them on a thread for it. They may come from several threads.
 *
 * @param root folder for bundles only, in the app's own storage.
 * @param freeSpace bytes that can still be written there.
 */
class BundleStore(private val root: File, private val freeSpace: () -> Long = root::getUsableSpace) {
    /** All bundles, sorted by name. Quick: reads manifests and sizes, but no hashes; see [verify]. */
    fun list(): List<StoredBundle> =
        root.listFiles().orEmpty()
            .filter { it.isDirectory && !it.name.startsWith('.') }
            .map(::open)
            .sortedWith(compareBy({ (it.manifest?.what?.name ?: it.id).lowercase() }, { it.id }))

    /**
     * Copies a bundle into the store and checks all of it. What is there already is not stored twice.
     *
     * @param progress gets bytes that were copied and bytes that will be, if they are known, on this thread.
     * @param isCancelled is asked again and again; a `true` ends the import.
     * @throws BundleException the first thing that is wrong. Nothing of the import stays on disk.
     * @throws CancellationException likewise.
     */
    fun import(
        source: BundleSource,
        progress: (done: Long, total: Long?) -> Unit = { _, _ -> },
        isCancelled: () -> Boolean = { false },
    ): StoredBundle {
        val folder = File(root, IMPORTING + UUID.randomUUID())
        runningImports += folder
        try {
            Files.createDirectories(folder.toPath())
            val unpacking = Unpacking(folder, freeSpace, source.totalBytes, progress, isCancelled)
            source.forEachFile(unpacking::take)
            return keep(folder, unpacking.finish())
        } catch (error: IOException) {
            throw BundleException(storageProblem(error), error)
        } catch (error: SecurityException) { // the app that shares the file has taken it back
            throw BundleException(storageProblem(error), error)
        } finally {
            folder.deleteRecursively()
            runningImports -= folder
        }
    }

    /** Removes a bundle; does nothing if it is gone already. Nobody may have it loaded. */
    fun delete(id: String) {
        val folder = folderOf(id) ?: return
        val doomed = File(root, DELETING + UUID.randomUUID())
        commit.withLock {
            // Renamed first: a kill must not leave half a bundle in the list.
            if (!folder.renameTo(doomed)) throw BundleException(Problem.Storage("cannot delete ${folder.name}"))
        }
        doomed.deleteRecursively()
    }

    /**
     * Removes what a killed import or delete left behind; call it when the app starts.
     *
     * @return how many there were.
     */
    fun cleanUp(): Int =
        root.listFiles().orEmpty()
            .filter { it.name.startsWith(IMPORTING) || it.name.startsWith(DELETING) }
            .filter { it !in runningImports }
            .count { it.deleteRecursively() }

    /**
     * Reads a bundle again, all of it: storage can go bad.
     *
     * @throws BundleException what is wrong, or [Problem.BundleGone].
     */
    fun verify(id: String) {
        val folder = folderOf(id) ?: throw BundleException(Problem.BundleGone(id))
        val stored = open(folder)
        stored.problem?.let { throw BundleException(it) }
        for ((name, expected) in checkNotNull(stored.manifest).files) {
            val digest = sha256()
            try {
                File(folder, name).inputStream().use { stream -> stream.forEachBlock { digest.update(it) } }
            } catch (error: IOException) {
                throw BundleException(storageProblem(error), error)
            }
            if (digest.hex() != expected.sha256) throw BundleException(Problem.WrongHash(name))
        }
    }

    private fun folderOf(id: String): File? =
        File(root, id).takeIf { it.name == id && !id.startsWith('.') && it.isDirectory }

    private fun open(folder: File): StoredBundle {
        val bytes = folder.walkTopDown().filter { it.isFile }.sumOf { it.length() }
        var manifest: Manifest? = null
        val problem = try {
            manifest = readManifestFile(File(folder, Manifest.FILE_NAME))
            manifest.files.firstNotNullOfOrNull { (name, expected) ->
                val file = File(folder, name)
                when {
                    !file.isFile -> Problem.MissingFile(name)
                    file.length() != expected.size -> Problem.WrongSize(name, file.length(), expected.size)
                    else -> null
                }
            }
        } catch (error: BundleException) {
            error.problem
        } catch (error: IOException) {
            storageProblem(error)
        }
        return StoredBundle(folder.name, folder, manifest, problem, bytes)
    }

    /** Gives a checked import its final name. */
    private fun keep(folder: File, id: String): StoredBundle = commit.withLock {
        val target = File(root, id)
        if (target.exists()) {
            val isWhole = try {
                verify(id)
                true
            } catch (_: BundleException) {
                false
            }
            if (isWhole) return open(target)
            delete(id) // the new copy repairs it
        }
        Files.move(folder.toPath(), target.toPath(), ATOMIC_MOVE)
        syncFolder(root)
        open(target)
    }
}

/** The files of one import, checked as they come. */
private class Unpacking(
    private val folder: File,
    private val freeSpace: () -> Long,
    private val sourceBytes: Long?,
    private val progress: (done: Long, total: Long?) -> Unit,
    private val isCancelled: () -> Boolean,
) {
    private val received = LinkedHashMap<String, FileInfo>()
    private var manifest: Manifest? = null
    private var manifestHash = ""
    private var done = 0L

    init {
        checkCancelled()
        requireSpace(sourceBytes ?: 0)
        progress(0, sourceBytes)
    }

    /** Takes the next file. */
    fun take(name: String, content: InputStream) {
        checkName(name)
        if (name in received) throw BundleException(Problem.DuplicateFile(name))
        if (received.size > Manifest.MAX_FILES) throw BundleException(Problem.ZipBomb(name))
        if (name == Manifest.FILE_NAME) {
            takeManifest(content)
        } else {
            val expected = manifest?.let { expected(it, name) }
            val info = write(name) { copy(content, it, expected, name) }
            received[name] = info
            manifest?.let { check(it, name, info) }
        }
    }

    /** Checks that all has come, and returns the id under which to keep it. */
    fun finish(): String {
        val manifest = manifest ?: throw BundleException(Problem.NoManifest)
        manifest.files.keys.firstOrNull { it !in received }?.let { throw BundleException(Problem.MissingFile(it)) }
        // All at the end: an import that is refused does not have to reach the disk.
        for (file in folder.walkBottomUp()) {
            checkCancelled()
            if (file.isDirectory) syncFolder(file) else syncFile(file)
        }
        val name = manifest.what.name.replace(NOT_FOR_FOLDERS, "_").trimStart('.').take(80).ifEmpty { "bundle" }
        return "$name-${manifestHash.take(8)}"
    }

    private fun takeManifest(content: InputStream) {
        val bytes = ByteArrayOutputStream()
        val info = copy(content, bytes, null, Manifest.FILE_NAME)
        val read = decodeManifest(bytes.toByteArray())
        for ((name, found) in received) check(read, name, found)
        received[Manifest.FILE_NAME] = info
        manifest = read
        manifestHash = info.sha256
        requireSpace(info.size + read.totalBytes - (done - info.size))
        write(Manifest.FILE_NAME) { bytes.writeTo(it) }
        reportProgress()
    }

    private fun reportProgress() =
        progress(done, manifest?.let { it.totalBytes + received.getValue(Manifest.FILE_NAME).size } ?: sourceBytes)

    private fun expected(manifest: Manifest, name: String): FileInfo =
        manifest.files[name] ?: throw BundleException(Problem.UnexpectedFile(name))

    private fun check(manifest: Manifest, name: String, found: FileInfo) {
        val expected = expected(manifest, name)
        if (found.size != expected.size) throw BundleException(Problem.WrongSize(name, found.size, expected.size))
        if (found.sha256 != expected.sha256) throw BundleException(Problem.WrongHash(name))
    }

    /** Copies to [out], not more than is [expected], and returns what it was. */
    private fun copy(content: InputStream, out: OutputStream, expected: FileInfo?, name: String): FileInfo {
        val digest = sha256()
        var size = 0L
        checkCancelled()
        content.forEachBlock { block ->
            val length = block.remaining() // none after the digest has read it
            size += length
            if (expected != null && size > expected.size) {
                throw BundleException(Problem.WrongSize(name, size, expected.size))
            }
            if (name == Manifest.FILE_NAME && size > Manifest.MAX_BYTES) {
                throw BundleException(Problem.BadManifest("is larger than ${Manifest.MAX_BYTES} bytes"))
            }
            requireSpace(length.toLong())
            out.write(block.array(), 0, length)
            digest.update(block)
            done += length
            reportProgress()
            checkCancelled()
        }
        return FileInfo(size, digest.hex())
    }

    /** Writes a new file. */
    private fun <T> write(name: String, fill: (OutputStream) -> T): T {
        val file = File(folder, name)
        val parent = checkNotNull(file.parentFile)
        // A file where a folder should be, or the other way round, or a name that differs only in case.
        if (!parent.isDirectory && !parent.mkdirs()) throw BundleException(Problem.UnsafePath(name))
        if (file.exists()) throw BundleException(Problem.DuplicateFile(name))
        return FileOutputStream(file).use(fill)
    }

    private fun requireSpace(bytes: Long) {
        val free = freeSpace()
        if (bytes > free - RESERVE) throw BundleException(Problem.NotEnoughSpace(bytes + RESERVE, free))
    }

    private fun checkCancelled() {
        if (isCancelled()) throw CancellationException("the import was cancelled")
    }
}

private fun readManifestFile(file: File): Manifest {
    if (!file.isFile) throw BundleException(Problem.NoManifest)
    if (file.length() > Manifest.MAX_BYTES) {
        throw BundleException(Problem.BadManifest("is larger than ${Manifest.MAX_BYTES} bytes"))
    }
    return decodeManifest(file.readBytes())
}

private fun decodeManifest(bytes: ByteArray): Manifest {
    val text = try {
        Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString()
    } catch (error: CharacterCodingException) {
        throw BundleException(Problem.BadManifest("is no UTF-8 text"), error)
    }
    return readManifest(text)
}

private inline fun InputStream.forEachBlock(take: (ByteBuffer) -> Unit) {
    val block = ByteArray(BLOCK)
    while (true) {
        val count = read(block)
        if (count < 0) return
        take(ByteBuffer.wrap(block, 0, count))
    }
}

private fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

private fun MessageDigest.hex(): String = digest().joinToString("") { "%02x".format(it) }
