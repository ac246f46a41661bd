package org.etpipeline.demo.notes

import android.content.ComponentCallbacks2.TRIM_MEMORY_BACKGROUND
import androidx.test.core.app.ApplicationProvider
import java.io.File
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.etpipeline.core.BundleException
import org.etpipeline.core.Note
import org.etpipeline.core.Problem
import org.etpipeline.core.search.bestOfEachNote
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.engine.EmbedderHolder
import org.etpipeline.demo.installEmbedder
import org.etpipeline.demo.startEmpty
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
class NoteSearchTest {
    @get:Rule val disk = TemporaryFolder()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val embedder = FakeEmbedder()
    private val notes = listOf(
        Note("a", "My physician is Dr. Sato", 0),
        Note("b", "The automobile needs oil", 0),
        Note("c", "Bread\n\n" + List(50) { "flour" }.joinToString(" ") + "\n\n" + List(50) { "water" }.joinToString(" "), 0),
    )

    @Before fun startEmpty() = app.startEmpty()

    private fun newSearch(embedder: FakeEmbedder = this.embedder, folder: File = disk.root) =
        NoteSearch(NoteIndex(app, folder), EmbedderHolder(app.services.store, app.phone, { _, _ -> embedder }))

    private fun NoteSearch.found(query: String, notes: List<Note> = this@NoteSearchTest.notes) =
        runBlocking { find(query, notes) }.bestOfEachNote().map { it.note }

    @Test
    fun `notes are found by what they mean`() {
        app.installEmbedder()
        val search = newSearch()
        assertEquals("a", search.found("doctor").first())
        assertEquals("b", search.found("car").first())
        assertEquals("c", search.found("water").first())
        assertEquals(listOf("water"), runBlocking { search.find("water", notes) }.first().chunk.text.split(" ").distinct())
    }

    @Test
    fun `only what has changed is embedded again, also in the next process`() {
        app.installEmbedder()
        newSearch().found("doctor")
        assertEquals(5, embedder.embedded.size) // one note has two chunks
        embedder.embedded.clear()
        val search = newSearch()
        search.found("doctor")
        assertEquals(listOf("doctor"), embedder.embedded)
        val changed = notes.map { if (it.id == "b") it.copy(text = "The automobile is sold") else it }
        assertEquals("b", search.found("sold", changed).first())
        assertEquals(listOf("doctor", "The automobile is sold", "sold"), embedder.embedded)
        assertEquals(listOf("a", "c"), search.found("sold", changed.filter { it.id != "b" }).sorted())
    }

    @Test
    fun `another model embeds all notes again`() {
        val first = app.installEmbedder("small")
        newSearch().found("doctor")
        app.services.store.delete(first.id)
        app.installEmbedder("minilm")
        val other = FakeEmbedder()
        assertEquals("a", newSearch(other).found("doctor").first())
        assertEquals(5, other.embedded.size)
    }

    @Test
    fun `what was embedded before a search was broken off stays`() {
        app.installEmbedder()
        embedder.onEmbed = { if ("oil" in it) throw CancellationException("closed") }
        assertThrows(CancellationException::class.java) { newSearch().found("doctor") }
        embedder.onEmbed = {}
        embedder.embedded.clear()
        val progress = mutableListOf<Pair<Int, Int>>()
        runBlocking { newSearch().find("doctor", notes) { done, total -> progress += done to total } }
        assertEquals(4, embedder.embedded.size)
        assertEquals(listOf(0 to 2, 1 to 2), progress)
    }

    @Test
    fun `memory pressure frees the model once it has embedded, and the next search loads it again`() {
        app.installEmbedder()
        var loads = 0
        val holder = EmbedderHolder(app.services.store, app.phone, { _, _ -> embedder.also { loads++ } })
        val search = NoteSearch(NoteIndex(app, disk.root), holder)
        var closedMeanwhile = -1
        embedder.onEmbed = { text ->
            if (text == "doctor") {
                holder.onTrimMemory(TRIM_MEMORY_BACKGROUND)
                delay(50)
                closedMeanwhile = embedder.closes
            }
        }
        assertEquals("a", search.found("doctor").first())
        assertEquals(0, closedMeanwhile)
        runBlocking { withTimeout(10_000) { while (embedder.closes == 0) delay(5) } }
        assertEquals("b", search.found("car").first())
        assertEquals(2 to 1, loads to embedder.closes)
    }

    @Test
    fun `without a model that embeds there is no such search`() = runBlocking<Unit> {
        assertEquals(false, newSearch().isPossible())
        val error = assertThrows(BundleException::class.java) { newSearch().found("doctor") }
        assertEquals(Problem.NoModel, error.problem)
        app.installEmbedder()
        assertEquals(true, newSearch().isPossible())
        app.phone.totalRam = 100_000_000 // too little for it
        assertEquals(false, newSearch().isPossible())
    }
}
