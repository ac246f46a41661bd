package org.etpipeline.core

import java.io.EOFException
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.io.UncheckedIOException
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.util.zip.ZipEntry
import java.util.zip.ZipException
import java.util.zip.ZipInputStream

/** The files of a bundle from anywhere, as streams: a zip, a folder, what another app shares. */
interface BundleSource {
    /** For messages: what the user picked. */
    val name: String

    /** About how many bytes will come, if that is known before. */
    val totalBytes: Long?

    /**
     * Gives every file to [visit], by its path inside the bundle. The stream is only good during the call.
     *
     * Names and contents are not to be trusted: [BundleStore.import] checks them.
     *
     * @throws BundleException if it cannot be read.
     */
    fun forEachFile(visit: (name: String, content: InputStream) -> Unit)
}

/**
 * A bundle in a zip, read from front to back: it is never stored as a whole, and no random access is needed.
 *
 * @param totalBytes size of the zip, if it is known.
 * @param open gives a new stream of the zip.
 */
class ZipSource(
    override val name: String,
    override val totalBytes: Long?,
    private val open: () -> InputStream,
) : BundleSource {
    override fun forEachFile(visit: (name: String, content: InputStream) -> Unit): Unit =
        readingErrors { open().use { stream -> forEachFile(WatchedStream(stream), visit) } }

    private fun forEachFile(source: WatchedStream, visit: (name: String, content: InputStream) -> Unit) {
        val zip = ZipInputStream(source.buffered())
        while (true) {
            val entry = zipErrors { zip.nextEntry } ?: break
            checkName(entry.name.removeSuffix("/"))
            if (!entry.isDirectory) visit(entry.name, Unpacked(zip, entry, source))
        }
        zipErrors {
            // A zip that was cut off between two files looks complete until here.
            source.skipRest()
            if (!source.hasEndOfZip()) throw ZipException("the end is missing")
        }
    }

    /** Tells the errors of a damaged zip from those of reading it. */
    private inline fun <T> zipErrors(block: () -> T): T =
        try {
            block()
        } catch (error: ZipException) {
            throw BundleException(problemOf(error), error)
        } catch (error: EOFException) {
            throw BundleException(Problem.DamagedZip, error)
        } catch (error: IllegalArgumentException) { // a name that is no UTF-8
            throw BundleException(Problem.DamagedZip, error)
        }

    /** Java's zip reader says some things only by the text of its exception. */
    private fun problemOf(error: ZipException): Problem {
        val message = error.message.orEmpty()
        return when {
            "encrypted" in message -> Problem.EncryptedZip(name)
            message.startsWith(UNSAFE_NAME) -> Problem.UnsafePath(message.removePrefix(UNSAFE_NAME))
            else -> Problem.DamagedZip
        }
    }

    /** One file of the zip, which may not unpack to far more than was read for it. */
    private inner class Unpacked(
        zip: ZipInputStream,
        private val entry: ZipEntry,
        private val source: WatchedStream,
    ) : FilterInputStream(zip) {
        override fun read(): Int = ByteArray(1).let { if (read(it, 0, 1) < 0) -1 else it[0].toInt() and 0xff }

        override fun read(bytes: ByteArray, offset: Int, length: Int): Int {
            val count = zipErrors { super.read(bytes, offset, length) }
            source.unpacked += maxOf(count, 0)
            if (source.unpacked > UNSUSPICIOUS_BYTES && source.unpacked > MAX_RATIO * source.count) {
                throw BundleException(Problem.ZipBomb(entry.name))
            }
            return count
        }

        override fun close() = Unit // the zip goes on
    }

    private companion object {
        /** How Android 14 begins its refusal of a name that leaves the folder. */
        const val UNSAFE_NAME = "Invalid zip entry path: "

        /** Weights hardly compress, text up to about 20 times. */
        const val MAX_RATIO = 100
        const val UNSUSPICIOUS_BYTES = 64L shl 20
    }
}

/** Counts what is read and remembers the last of it, where a zip's end mark lies. */
private class WatchedStream(stream: InputStream) : FilterInputStream(stream) {
    private val last = ByteArray(END_LENGTH) // a ring: byte number n of the stream lies at n % END_LENGTH

    /** Bytes that were read. */
    var count = 0L
        private set

    /** Bytes that came out of them. */
    var unpacked = 0L

    override fun read(): Int = ByteArray(1).let { if (read(it, 0, 1) < 0) -1 else it[0].toInt() and 0xff }

    override fun read(bytes: ByteArray, offset: Int, length: Int): Int {
        val read = super.read(bytes, offset, length)
        if (read <= 0) return read
        var from = maxOf(0, read - END_LENGTH)
        while (from < read) {
            val at = ((count + from) % END_LENGTH).toInt()
            val part = minOf(read - from, END_LENGTH - at)
            bytes.copyInto(last, at, offset + from, offset + from + part)
            from += part
        }
        count += read
        return read
    }

    /** Reads on to the end; behind its files a zip has only their list. */
    fun skipRest() {
        val start = count
        val buffer = ByteArray(1 shl 13)
        while (read(buffer, 0, buffer.size) >= 0) {
            if (count - start > MAX_REST) throw ZipException("no end")
        }
    }

    /** Whether the mark that ends every zip is there, in front of a comment of at most 65535 bytes. */
    fun hasEndOfZip(): Boolean {
        fun byte(number: Long) = last[(number % END_LENGTH).toInt()]
        return (maxOf(0, count - END_LENGTH)..count - END_RECORD).any { start ->
            END_MARK.indices.all { byte(start + it) == END_MARK[it] }
        }
    }

    private companion object {
        val END_MARK = byteArrayOf('P'.code.toByte(), 'K'.code.toByte(), 5, 6)
        const val END_RECORD = 22
        const val END_LENGTH = END_RECORD + 0xffff
        const val MAX_REST = 16L shl 20
    }
}

/** A bundle that lies in a folder as plain files. */
class FolderSource(folder: File) : BundleSource {
    private val root = folder.canonicalFile

    override val name: String = folder.name

    override val totalBytes: Long?
        get() = if (hasManifest()) readingErrors { files().sumOf { it.length() } } else null

    /** Begins with the manifest, so that everything behind it can be checked against it at once. */
    override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) {
        // Looked for first: the user may have picked a folder with all of their photos.
        if (!hasManifest()) throw BundleException(Problem.NoManifest)
        for (file in readingErrors { files().sortedBy { it.name != Manifest.FILE_NAME || it.parentFile != root } }) {
            val name = file.relativeTo(root).invariantSeparatorsPath
            // What a link or device leads to can change or never end.
            if (!Files.isRegularFile(file.toPath(), NOFOLLOW_LINKS)) throw BundleException(Problem.UnsafePath(name))
            readingErrors { file.inputStream() }.use { visit(name, it) }
        }
    }

    private fun hasManifest() = File(root, Manifest.FILE_NAME).isFile

    /** All files, in the same order everywhere; one more than allowed is enough to see that they are too many. */
    private fun files(): List<File> = Files.walk(root.toPath()).use { paths ->
        // No stream operations: their toList() is missing in Android before 14.
        paths.iterator().asSequence()
            .filter { !Files.isDirectory(it, NOFOLLOW_LINKS) }
            .take(Manifest.MAX_FILES + 2)
            .map { it.toFile() }.sorted().toList()
    }
}

/** Says errors of reading as a [Problem]. */
private inline fun <T> readingErrors(block: () -> T): T =
    try {
        block()
    } catch (error: IOException) {
        throw BundleException(storageProblem(error), error)
    } catch (error: UncheckedIOException) {
        throw BundleException(storageProblem(error), error)
    }
