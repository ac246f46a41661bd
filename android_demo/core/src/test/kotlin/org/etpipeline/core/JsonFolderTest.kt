package org.etpipeline.core

import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class JsonFolderTest {
    @get:Rule
    val temporary = TemporaryFolder()
    private val folder by lazy { File(temporary.root, "notes") }
    private val notes by lazy { JsonFolder(folder, Note.serializer()) }

    @Test
    fun `what was written is read`() {
        assertEquals(emptyMap<String, Note>(), notes.all())
        notes.write("b", Note("b", "ü 😀\n\"", 2))
        notes.write("a", Note("a", "", 1))
        notes.write("a", Note("a", "newer", 3))
        assertEquals(listOf("a" to "newer", "b" to "ü 😀\n\""), notes.all().map { it.key to it.value.text })
        assertEquals(Note("a", "newer", 3), notes.read("a"))
        notes.delete("a")
        notes.delete("a")
        assertNull(notes.read("a"))
        assertArrayEquals(arrayOf("b.json"), folder.list())
    }

    @Test
    fun `conversations keep their figures`() {
        val stats = Generation(10, 5, 20.0, 100.0, Generation.End.LENGTH).toStats()
        val turns = listOf(SavedMessage(Role.USER, "a"), SavedMessage(Role.ASSISTANT, "b", stats, unfinished = true))
        val conversation = Conversation("c", "bundle-1", "Title", 7, turns)
        val saved = JsonFolder(folder, Conversation.serializer())
        saved.write("c", conversation)
        assertEquals(conversation, saved.read("c"))
        assertEquals(AnswerStats(10, 5, 20.0, 40.0, "LENGTH"), stats)
    }

    @Test
    fun `a kill while writing leaves the document of before`() {
        notes.write("a", Note("a", "old", 1))
        File(folder, "a.tmp").writeText("{\"id\": \"a\", \"te")
        assertEquals("old", notes.all().getValue("a").text)
        assertArrayEquals(arrayOf("a.json"), folder.list())
    }

    @Test
    fun `broken documents are put aside and stay readable for a human`() {
        folder.mkdirs()
        val broken = listOf(
            "", "{", "[]", "{\"id\": \"x\"}", "[".repeat(100_000), "\u0000".repeat(100), "{\"id\": 1, \"text\": []}",
        )
        broken.forEachIndexed { index, text -> File(folder, "n$index.json").writeText(text) }
        notes.write("good", Note("good", "x", 1))
        assertEquals(setOf("good"), notes.all().keys)
        broken.forEachIndexed { index, text -> assertEquals(text, File(folder, "n$index.broken").readText()) }
        File(folder, "n0.json").writeText("again")
        assertNull(notes.read("n0"))
        assertEquals("", File(folder, "n0.broken").readText())
        assertEquals("again", File(folder, "n0.broken-2").readText())
    }

    @Test
    fun `a field of a newer app is passed over`() {
        folder.mkdirs()
        File(folder, "a.json").writeText("{\"id\": \"a\", \"text\": \"t\", \"updated\": 1, \"colour\": \"red\"}")
        assertEquals("t", notes.read("a")?.text)
    }

    @Test
    fun `an id cannot leave the folder`() {
        File(temporary.root, "secret.json").writeText("{\"id\": \"a\", \"text\": \"t\", \"updated\": 1}")
        for (id in listOf("../secret", "", ".", "..", "a/b", ".a", "a\u0000", "x".repeat(101))) {
            assertNull(notes.read(id))
            notes.delete(id)
            assertThrows(IllegalArgumentException::class.java) { notes.write(id, Note("a", "", 1)) }
        }
        assertTrue(File(temporary.root, "secret.json").exists())
    }

    @Test
    fun `a disk that takes nothing is a storage problem`() {
        folder.writeText("a file where the folder should be")
        val error = assertThrows(BundleException::class.java) { notes.write("a", Note("a", "", 1)) }
        assertTrue(error.problem is Problem.Storage)
        assertFalse(File(temporary.root, "a.tmp").exists())
    }

    @Test
    fun `writers at the same time do not disturb each other`() {
        val threads = List(4) { number ->
            Thread { repeat(20) { notes.write("n${it % 5}", Note("n", "$number".repeat(5000), it.toLong())) } }
        }
        threads.forEach { it.start() }
        threads.forEach { it.join() }
        for (note in notes.all().values) assertEquals(1, note.text.toSet().size)
        assertEquals(5, folder.list()!!.size)
    }
}
