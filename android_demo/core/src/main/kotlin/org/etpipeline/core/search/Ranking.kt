package org.etpipeline.core.search

import java.text.Normalizer

/** A chunk of a note with its vector of length 1. */
class IndexedChunk(val note: String, val chunk: Chunk, val vector: FloatArray)

/** @property score cosine of the angle to what was looked for: 1 is the same. */
data class Hit(val note: String, val chunk: Chunk, val score: Float)

/**
 * The chunks nearest to a query, the best first. All are compared: of a few thousand that takes milliseconds.
 *
 * @param query of length 1.
 */
fun nearest(query: FloatArray, chunks: List<IndexedChunk>): List<Hit> =
    chunks.map { Hit(it.note, it.chunk, dot(query, it.vector)) }.sortedByDescending { it.score }

/** Of each note the best hit only, in the same order. */
fun List<Hit>.bestOfEachNote(): List<Hit> = distinctBy { it.note }

private fun dot(one: FloatArray, other: FloatArray): Float {
    require(one.size == other.size) { "vectors of different models" }
    var sum = 0f
    for (at in one.indices) sum += one[at] * other[at]
    return sum
}

/** Looks for texts that hold all words of [query], however they are written: without case, accents and such. */
class WordSearch(query: String) {
    private val words = plain(query).split(' ').filter { it.isNotEmpty() }

    fun finds(text: String): Boolean = words.isNotEmpty() && plain(text).let { plain -> words.all { it in plain } }

    private fun plain(text: String): String =
        Normalizer.normalize(text, Normalizer.Form.NFKD).replace(MARKS, "").lowercase().replace(SPACES, " ")

    private companion object {
        val MARKS = Regex("""\p{Mn}""")
        val SPACES = Regex("""\s+""")
    }
}
