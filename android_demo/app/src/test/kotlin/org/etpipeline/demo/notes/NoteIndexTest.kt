package org.etpipeline.demo.notes

import androidx.test.core.app.ApplicationProvider
import java.io.File
import org.etpipeline.core.search.Chunk
import org.etpipeline.core.search.IndexedChunk
import org.etpipeline.demo.TestApp
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
class NoteIndexTest {
    @get:Rule val disk = TemporaryFolder()

    private val app: TestApp = ApplicationProvider.getApplicationContext()

    private fun open(folder: File = disk.root) = NoteIndex(app, folder)

    private fun chunks(count: Int, note: String = "n") =
        List(count) { IndexedChunk(note, Chunk(it, "$note $it"), floatArrayOf(it.toFloat(), -0.25f, Float.MIN_VALUE)) }

    private fun NoteIndex.texts(model: String) = chunks(model).map { it.chunk.text }.sorted()

    @Test
    fun `what was put is there in the next process`() {
        open().use { it.put("model", "n", "hash", chunks(2)) }
        open().use { index ->
            assertEquals(mapOf("n" to "hash"), index.hashes("model"))
            val (first, second) = index.chunks("model")
            assertEquals(listOf(Chunk(0, "n 0"), Chunk(1, "n 1")), listOf(first.chunk, second.chunk))
            assertArrayEquals(floatArrayOf(1f, -0.25f, Float.MIN_VALUE), second.vector, 0f)
        }
    }

    @Test
    fun `a note takes its own place, whichever model embedded it before`() = open().use { index ->
        index.put("model", "a", "1", chunks(3, "a"))
        index.put("model", "b", "2", chunks(1, "b"))
        index.put("model", "a", "3", chunks(1, "a"))
        assertEquals(listOf("a 0", "b 0"), index.texts("model"))
        index.put("other", "a", "3", chunks(2, "a"))
        assertEquals(mapOf("b" to "2"), index.hashes("model"))
        assertEquals(listOf("b 0"), index.texts("model"))
        assertEquals(listOf("a 0", "a 1"), index.texts("other"))
        index.keepOnly(setOf("a"))
        assertEquals(emptyList<String>(), index.texts("model"))
        assertEquals(listOf("a 0", "a 1"), index.texts("other"))
    }

    @Test
    fun `a kill while a note is written leaves all of it as it was, or as it is to be`() {
        val root = disk.newFolder("index")
        val moments = mutableListOf<File>()
        fun look() {
            moments += File(disk.root, "moment${moments.size}").also { root.copyRecursively(it) }
        }
        val watched = object : AbstractList<IndexedChunk>() {
            override val size = 40
            override fun get(index: Int) = chunks(40)[index].also { look() }
        }
        val index = open(root)
        index.put("model", "n", "old", chunks(3))
        index.put("model", "n", "new", watched)
        look()
        val found = moments.map { moment ->
            open(moment).use { it.hashes("model").getValue("n") to it.chunks("model").size }
        }
        assertEquals(41, found.size)
        assertTrue("$found", found.dropLast(1).all { it == "old" to 3 })
        assertEquals("new" to 40, found.last())
        index.close()
    }

    @Test
    fun `a damaged file is made anew`() {
        open().use { it.put("model", "n", "hash", chunks(2)) }
        for (name in listOf("notes.db", "notes.db-wal")) File(disk.root, name).writeBytes(ByteArray(5000) { 7 })
        open().use { index ->
            assertEquals(emptyMap<String, String>(), index.hashes("model"))
            index.put("model", "n", "hash", chunks(2))
            assertEquals(2, index.chunks("model").size)
        }
    }
}
