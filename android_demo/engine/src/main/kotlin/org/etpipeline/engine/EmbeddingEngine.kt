package org.etpipeline.engine

import java.io.File
import kotlin.math.sqrt
import org.etpipeline.core.Embedder
import org.etpipeline.core.EngineException
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.TextUse
import org.etpipeline.core.prepared
import org.etpipeline.core.tokenizer.Tokenizer
import org.pytorch.executorch.Tensor

/**
 * An [Embedder] over ExecuTorch's `Module`. One thread owns it, from loading, at the first call, to closing; it may be
 * open beside a language model, see [OpenProgram].
 *
 * @param folder where the bundle's files are.
 * @param manifest of a bundle that embeds.
 * @param program of that manifest.
 * @param dimension how many numbers of a vector are wanted, as the manifest offers; null for all.
 * @param threads that the runtime computes with.
 */
class EmbeddingEngine(
    private val folder: File,
    private val manifest: Manifest,
    private val program: Program,
    private val dimension: Int? = null,
    private val threads: Int = usualThreads(),
) : Embedder {
    private val embedding = requireNotNull(manifest.embedding) { "the bundle does not embed" }
    private val thread = OwnThread()
    private val longest = minOf(embedding.maxTokens, program.maxContext)

    /** Read by whoever comes first. */
    private val tokenizer by lazy {
        val file = File(folder, manifest.tokenizer.file)
        if (!file.isFile) throw EngineException(Problem.MissingFile(file.name))
        Tokenizer.read(file)
    }
    private var module: OpenModule? = null // the engine's thread only

    init {
        val offered = embedding.dimensions + embedding.dimension
        require(dimension == null || dimension in offered) { "its vectors have $offered numbers, and not $dimension" }
    }

    override fun mostTokens(use: TextUse): Int = longest - tokenizer.encodeForModel(embedding.promptFor(use)).size

    override suspend fun countTokens(text: String): Int = thread.run { tokenizer.encode(prepare(text)).size }

    override suspend fun embed(text: String, use: TextUse): FloatArray = thread.run {
        val ids = tokenizer.encodeForModel(prepare(embedding.promptFor(use) + text), longest)
        if (ids.isEmpty()) throw EngineException(Problem.EngineFailed("the text has no tokens"))
        val open = module ?: OpenModule(File(folder, program.file), threads, thread::isOpen).also { module = it }
        val vector = open.used { open.forward(*inputs(ids)) }
        normalized(if (dimension == null) vector else vector.copyOf(dimension))
    }

    override fun close() = thread.close {
        module?.close()
        module = null
    }

    private fun prepare(text: String): String =
        prepared(text, manifest.tokenizer.normalization, manifest.tokenizer.lstrip, manifest.tokenizer.rstrip)

    /** The tokens; and where the program's length is fixed, padded, with a mask of which are none. */
    private fun inputs(ids: IntArray): Array<Tensor> {
        if (program.signature == Program.TOKENS) return arrayOf(row(ids, ids.size))
        return arrayOf(row(ids, program.maxContext), row(IntArray(ids.size) { 1 }, program.maxContext))
    }

    private fun row(ids: IntArray, length: Int): Tensor {
        val buffer = Tensor.allocateLongBuffer(length)
        ids.forEachIndexed { at, id -> buffer.put(at, id.toLong()) }
        return Tensor.fromBlob(buffer, longArrayOf(1, length.toLong()))
    }
}

private fun normalized(vector: FloatArray): FloatArray {
    val length = sqrt(vector.sumOf { it.toDouble() * it })
    if (!(length > 0)) throw EngineException(Problem.EngineFailed("the vector has no direction")) // NaN, too
    return FloatArray(vector.size) { (vector[it] / length).toFloat() }
}
