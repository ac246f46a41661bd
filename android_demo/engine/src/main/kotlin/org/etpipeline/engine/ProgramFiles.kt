package org.etpipeline.engine

import java.io.File
import java.io.RandomAccessFile
import java.io.Reader
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.pytorch.executorch.ExecuTorchRuntime

/** ExecuTorch's version inside the app: what a manifest's `min_runtime` is compared with. */
const val RUNTIME_VERSION = "1.3.1"

/** Version of Qualcomm's QAIRT libraries inside the app, such as `v2.49.40`; null: this app has none. */
val QAIRT_VERSION: String? = null

/** Threads for a phone's fast cores: with all of its cores it is slower, as the others keep them waiting. */
fun usualThreads(): Int = (Runtime.getRuntime().availableProcessors() / 2).coerceAtLeast(1)

/** Delegates that are built into the app's runtime, in the manifest's words; `portable` needs none. */
fun executorchBackends(): List<String> =
    ExecuTorchRuntime.getRegisteredBackends().mapNotNull { DELEGATES[it] } + "portable"

private val DELEGATES = mapOf("XnnpackBackend" to "xnnpack", "VulkanBackend" to "vulkan", "QnnBackend" to "qnn")

private const val HEADER_BYTES = 40
private const val WEIGHTS_HEADER_BYTES = 48
private const val WEIGHTS_NAMES = "FT01FH01"
private const val NUMBERS_AT = 32

/**
 * Checks that a file is a whole ExecuTorch program. The runtime itself notices a missing end only when it comes to the
 * weights there, and then in words that help nobody.
 *
 * The header: 4 bytes of FlatBuffers, "ET12", "eh00", its own length, then three 64-bit little-endian numbers: size of
 * the program, where the weights begin, and how many bytes they are.
 */
internal fun checkProgram(file: File) {
    val header = header(file, HEADER_BYTES, "ET12eh00")
        ?: throw EngineException(Problem.BadProgram("it does not begin as one"))
    val end = maxOf(header.getLong(16), header.getLong(24) + header.getLong(32))
    if (end > file.length()) throw EngineException(Problem.BadProgram("its end is missing"))
}

/**
 * Checks that a file holds a program's weights, whole: what lies beyond its end would be read.
 *
 * The header: 4 bytes of FlatBuffers, "FT01", "FH01", its own length, then four 64-bit little-endian numbers: where the
 * index begins and its size, where the weights begin and how many bytes they are.
 */
internal fun checkWeights(file: File) {
    if (numbersOf(file).last >= file.length()) {
        throw EngineException(Problem.BadProgram("the end of its weights is missing"))
    }
}

/** Where the numbers of a file of weights lie, by its header, see [checkWeights]. */
private fun numbersOf(file: File): LongRange {
    val header = header(file, WEIGHTS_HEADER_BYTES, WEIGHTS_NAMES)
        ?: throw EngineException(Problem.BadProgram("its weights do not begin as such"))
    val (start, bytes) = header.getLong(NUMBERS_AT) to header.getLong(NUMBERS_AT + 8)
    return start until if (start < WEIGHTS_HEADER_BYTES || bytes < 0) Long.MAX_VALUE else start + bytes
}

/**
 * Checks that a file is an adapter for the program whose weights lie in [empty]: the same file but for its numbers.
 *
 * @throws EngineException [Problem.MissingFile], [Problem.DamagedAdapter] or [Problem.ForeignAdapter].
 */
internal fun checkAdapter(adapter: File, empty: File) {
    val numbers = try {
        numbersOf(adapter)
    } catch (error: EngineException) {
        if (error.problem is Problem.MissingFile) throw error
        throw EngineException(Problem.DamagedAdapter(adapter.name), error)
    }
    if (numbers != numbersOf(empty)) throw EngineException(Problem.ForeignAdapter(adapter.name))
    if (adapter.length() != empty.length()) throw EngineException(Problem.DamagedAdapter(adapter.name))
    if (mapped(adapter, 0, numbers.first) != mapped(empty, 0, numbers.first)) {
        throw EngineException(Problem.ForeignAdapter(adapter.name))
    }
}

/** Whether each number of a file of weights in float32, as those of adapters are, is one. */
internal fun isFinite(weights: File): Boolean {
    val range = numbersOf(weights)
    val numbers = mapped(weights, range.first, range.last + 1 - range.first).asFloatBuffer()
    return (0 until numbers.limit()).all { numbers.get(it).isFinite() }
}

private fun mapped(file: File, from: Long, bytes: Long): ByteBuffer =
    RandomAccessFile(file, "r").use { it.channel.map(FileChannel.MapMode.READ_ONLY, from, bytes) }
        .order(ByteOrder.LITTLE_ENDIAN)

/** A file's first bytes, or null if it is shorter or does not begin with the names of its format. */
private fun header(file: File, bytes: Int, names: String): ByteBuffer? {
    if (!file.isFile) throw EngineException(Problem.MissingFile(file.name))
    val header = ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN)
    val read = file.inputStream().use { it.read(header.array()) }
    return header.takeIf { read == bytes && String(it.array(), 4, names.length, Charsets.ISO_8859_1) == names }
}

/**
 * Checks that a file can be a Hugging Face tokenizer. The runtime tries one format after the other on what it cannot
 * read, and takes the bytes of a text for sizes.
 */
internal fun checkTokenizer(file: File) {
    if (!file.isFile) throw EngineException(Problem.MissingFile(file.name))
    val looksRight = file.bufferedReader(Charsets.ISO_8859_1).use { reader ->
        generateSequence { reader.read().takeIf { it >= 0 } }.firstOrNull { !it.toChar().isWhitespace() } == '{'.code &&
            reader.contains("\"vocab\"")
    }
    if (!looksRight) throw EngineException(Problem.BadTokenizer(file.name))
}

/** Whether [text] comes somewhere, without holding more than a block of what is read. */
private fun Reader.contains(text: String): Boolean {
    val block = CharArray(1 shl 16)
    var tail = ""
    while (true) {
        val count = read(block)
        if (count < 0) return false
        val window = tail + String(block, 0, count)
        if (text in window) return true
        tail = window.takeLast(text.length - 1)
    }
}

/** The runtime's own words, without its decoration and path names. */
internal fun Throwable.shortReason(): String =
    message.orEmpty()
        .lineSequence().first().substringAfter("] ").take(120).trim().trimEnd('.').ifEmpty { javaClass.simpleName }
