package org.etpipeline.core.search

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class RankingTest {
    private fun indexed(note: String, vararg vector: Float) = IndexedChunk(note, Chunk(0, note), vector)

    @Test fun `the nearest are first, and a note once`() {
        val near = listOf(indexed("near", 1f, 0f), indexed("near", 0.6f, 0.8f))
        val chunks = listOf(indexed("far", 0f, 1f)) + near + indexed("mid", 0.8f, 0.6f)
        val hits = nearest(floatArrayOf(1f, 0f), chunks)
        assertEquals(listOf("near", "mid", "near", "far"), hits.map { it.note })
        assertEquals(listOf(1f, 0.8f, 0.6f, 0f), hits.map { it.score })
        assertEquals(listOf("near", "mid", "far"), hits.bestOfEachNote().map { it.note })
        assertThrows(IllegalArgumentException::class.java) { nearest(floatArrayOf(1f), chunks) }
    }

    @Test fun `words are found however they are written`() {
        assertTrue(WordSearch("cafe ELITE").finds("Café élite"))
        assertTrue(WordSearch("ﬁrst  lime").finds("first\nlimestone"))
        assertTrue(WordSearch("МОСКВА").finds("из Москва"))
        assertFalse(WordSearch("milk eggs").finds("milk, bread"))
        assertFalse(WordSearch("  ").finds("anything"))
    }
}
