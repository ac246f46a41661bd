package org.etpipeline.demo.notes

import androidx.test.core.app.ApplicationProvider
import java.io.File
import kotlin.system.measureTimeMillis
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.Note
import org.etpipeline.core.search.bestOfEachNote
import org.etpipeline.demo.RealEngineApp
import org.etpipeline.demo.install
import org.etpipeline.demo.installEmbedder
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.tasks.TaskRun
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowLooper

/** 200 notes, found by all-MiniLM-L6-v2 and answered from by the built-in model, on Android's own library. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = RealEngineApp::class)
class RealNotesTest {
    private val app: RealEngineApp = ApplicationProvider.getApplicationContext()

    /** Of each line a note, and after a tab what somebody would look for who wants that note, in other words. */
    private val lines = File("src/test/notes.tsv").readLines().map { it.split('\t') }
    private val notes = lines.mapIndexed { at, line -> Note("$at", line[0].replace("\\n", "\n"), at.toLong()) }
    private val queries = lines.withIndex().filter { it.value.size == 2 }.associate { (at, line) -> line[1] to "$at" }

    @Before
    fun install() {
        app.startEmpty()
        app.install()
        app.installEmbedder("minilm")
        app.services.models.refresh()
    }

    @After
    fun unload() = runBlocking<Unit> {
        app.services.models.unload()
        app.services.embedders.unload()
    }

    @Test
    fun `the right note is found for what is said in other words`() = runBlocking<Unit> {
        assertEquals(200, notes.size)
        assertTrue(queries.size >= 50)
        val search = app.services.search
        val indexMs = measureTimeMillis { search.find("first", notes) }
        val ranks = mutableMapOf<String, Int>()
        val searchMs = measureTimeMillis {
            for ((query, note) in queries) {
                ranks[query] = search.find(query, notes).bestOfEachNote().indexOfFirst { it.note == note }
            }
        }
        val (first, third) = listOf(1, 3).map { most -> ranks.values.count { it < most } / ranks.size.toDouble() }
        println("top-1 $first, top-3 $third of ${ranks.size}; index $indexMs ms, a search ${searchMs / ranks.size} ms")
        ranks.filterValues { it > 0 }.forEach { (query, rank) -> println("rank ${rank + 1}: $query") }
        // What the model is good for: the original, in float32, has 0.69 and 0.95.
        assertTrue("$first", first >= 0.65)
        assertTrue("$third", third >= 0.9)
    }

    @Test
    fun `an answer comes from the notes that were found`() {
        val viewModel = NoteSearchViewModel(app.services)
        val few = notes.take(30)
        viewModel.search("Where is the spare key?", few)
        viewModel.ask("Notes:\n{notes}\n\nQuestion: {question}", few)
        val end = System.nanoTime() + 60_000_000_000
        while (viewModel.state.value.run?.isRunning != false) {
            assertTrue("${viewModel.state.value}", System.nanoTime() < end)
            ShadowLooper.idleMainLooper()
            Thread.sleep(5)
        }
        val state = viewModel.state.value
        assertEquals(TaskRun.Phase.DONE, state.run?.phase)
        assertEquals(null, state.run?.problem)
        assertTrue(state.run?.answer.orEmpty().isNotBlank())
        assertTrue(state.sources.first().chunk.text.startsWith("The spare key"))
        println("${state.sources.size} sources, ${state.run?.stats?.promptTokens} tokens: ${state.run?.answer}")
    }
}
