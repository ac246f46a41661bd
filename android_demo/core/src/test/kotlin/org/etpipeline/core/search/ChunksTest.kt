package org.etpipeline.core.search

import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class ChunksTest {
    /** A word is a token here, and so is each half of a long one. */
    private fun count(text: String) = text.split(Regex("\\s+")).filter { it.isNotEmpty() }.sumOf { (it.length + 9) / 10 }

    private fun chunks(text: String, most: Int) = runBlocking { chunksOf(text, most, ::count) }

    private fun words(count: Int, from: Int = 0) = (from until from + count).joinToString(" ") { "w$it" }

    @Test fun `a short note is one chunk, without the white space around it`() {
        assertEquals(listOf(Chunk(2, "Milk, bread\n\nand eggs")), chunks("\n Milk, bread\n\nand eggs \n", 20))
        assertEquals(emptyList<Chunk>(), chunks(" \n\n ", 20))
    }

    @Test fun `paragraphs stay whole, and a heading is with what follows it`() {
        val (first, second) = words(50) to words(40, from = 50)
        val text = "Heading\n\n$first\n \n$second"
        assertEquals(listOf("Heading\n\n$first", second), chunks(text, 100).map { it.text })
        assertEquals(listOf(0, text.indexOf(second)), chunks(text, 100).map { it.start })
    }

    @Test fun `a long paragraph is cut at lines, then at sentences, then at words`() {
        val lines = listOf(words(8), words(8, 8), words(8, 16))
        assertEquals(lines, chunks(lines.joinToString("\n"), 10).map { it.text })
        val sentences = listOf("One two three four.", "Five six seven?", "Eight nine ten eleven!")
        assertEquals(sentences, chunks(sentences.joinToString(" "), 5).map { it.text })
        assertEquals(listOf(words(10), words(10, 10), words(3, 20)), chunks(words(23), 10).map { it.text })
    }

    @Test fun `a word without end is cut, but no character`() {
        val text = "😀".repeat(100)
        val found = chunks(text, 2).map { it.text }
        assertEquals(text, found.joinToString(""))
        assertTrue(found.all { count(it) <= 2 && !it.first().isLowSurrogate() && !it.last().isHighSurrogate() })
    }

    @Test fun `whatever the text, nothing but white space is lost, and no chunk is too long`() {
        val random = kotlin.random.Random(7)
        val pieces = listOf("a", "word", "long".repeat(9), ". ", "\n", "\n\n", " ", "é", "😀", "\t")
        repeat(200) {
            val text = List(random.nextInt(120)) { pieces.random(random) }.joinToString("")
            val found = chunks(text, 5)
            for (chunk in found) {
                assertEquals(chunk.text, text.substring(chunk.start, chunk.start + chunk.text.length))
                assertTrue("${chunk.text}: ${count(chunk.text)}", count(chunk.text) <= 5)
            }
            fun letters(text: String) = text.filterNot { it.isWhitespace() }
            assertEquals(letters(text), letters(found.joinToString("") { it.text }))
            assertTrue(found.zipWithNext().all { (one, next) -> one.start + one.text.length <= next.start })
        }
    }
}
