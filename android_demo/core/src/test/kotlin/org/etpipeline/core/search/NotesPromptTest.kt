package org.etpipeline.core.search

import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class NotesPromptTest {
    private val template = "Notes:\n{notes}\nQuestion: {question}"

    private fun hit(text: String, note: String = text) = Hit(note, Chunk(0, text), 1f)

    private fun fitting(hits: List<Hit>, room: Int) =
        runBlocking { NotesPrompt(template, "why?").fitting(hits, room) { it.length }.map { it.chunk.text } }

    @Test fun `sources are numbered, each on a line, and braces are theirs`() {
        val prompt = NotesPrompt(template, "who is {notes}?")
        assertEquals(
            "Notes:\n[1] a {question} b\n[2] c\nQuestion: who is {notes}?",
            prompt.with(listOf("a {question}\n\n b", "c")),
        )
        assertThrows(IllegalArgumentException::class.java) { NotesPrompt("{notes}", "why?") }
        assertThrows(IllegalArgumentException::class.java) { NotesPrompt("{notes} {notes} {question}", "why?") }
    }

    @Test fun `as many as fit, the best first, and at most four`() {
        val frame = NotesPrompt(template, "why?").with(emptyList()).length
        val hits = listOf("one", "two", "three", "four", "five").map { hit(it) }
        assertEquals(listOf("one", "two", "three", "four"), fitting(hits, 1000))
        assertEquals(listOf("one", "two"), fitting(hits, frame + 2 * "[1] one\n".length))
        assertEquals(listOf("one"), fitting(hits, frame + 2 * "[1] one\n".length - 1))
        assertEquals(emptyList<String>(), fitting(hits, frame + 3))
    }

    @Test fun `the best is cut at a word if it does not fit`() {
        val frame = NotesPrompt(template, "why?").with(emptyList()).length
        val long = listOf(hit("some words and more"))
        for (more in 0..3) {
            assertEquals(listOf("some words"), fitting(long, frame + "[1] some words\n".length + more))
        }
        assertEquals(listOf("some words and"), fitting(long, frame + "[1] some words and\n".length))
        assertEquals(listOf("😀😀"), fitting(listOf(hit("😀😀😀")), frame + "[1] 😀😀\n".length + 1))
    }
}
