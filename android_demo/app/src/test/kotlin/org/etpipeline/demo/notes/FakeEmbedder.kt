package org.etpipeline.demo.notes

import kotlin.math.abs
import kotlin.math.sqrt
import org.etpipeline.core.Embedder
import org.etpipeline.core.TextUse

/** Texts are alike here if they share words; one in [SAME] means the same as what it stands for. */
class FakeEmbedder : Embedder {
    val embedded = mutableListOf<String>()

    @Volatile var closes = 0

    /** Called before each text is embedded. */
    var onEmbed: suspend (String) -> Unit = {}

    override fun mostTokens(use: TextUse) = 100

    override suspend fun countTokens(text: String) = words(text).size

    override suspend fun embed(text: String, use: TextUse): FloatArray {
        onEmbed(text)
        embedded += text
        val vector = FloatArray(DIMENSION)
        for (word in words(text)) vector[abs((SAME[word] ?: word).hashCode()) % DIMENSION] += 1f
        val length = sqrt(vector.sumOf { it.toDouble() * it }).toFloat()
        return FloatArray(DIMENSION) { if (length > 0) vector[it] / length else 0f }
    }

    override fun close() {
        closes++
    }

    private fun words(text: String) = text.lowercase().split(Regex("\\W+")).filter { it.isNotEmpty() }

    private companion object {
        const val DIMENSION = 256
        val SAME = mapOf("doctor" to "physician", "car" to "automobile")
    }
}
