package org.etpipeline.demo.notes

import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertTextContains
import androidx.compose.ui.test.assertTextEquals
import androidx.compose.ui.test.hasTestTag
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.test.performScrollToNode
import androidx.compose.ui.test.performTextInput
import androidx.compose.ui.test.performTextReplacement
import androidx.test.core.app.ApplicationProvider
import java.util.concurrent.TimeUnit
import org.etpipeline.core.Note
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.install
import org.etpipeline.demo.installEmbedder
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.tasks.NotesPage
import org.etpipeline.demo.tasks.NotesViewModel
import org.etpipeline.demo.tasks.TasksScreen
import org.etpipeline.demo.waitFor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowLooper

@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class, qualifiers = "w411dp-h891dp-420dpi")
class NoteSearchScreenTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private var modelsOpened = 0

    @Before
    fun writeNotes() {
        app.startEmpty()
        val texts = mapOf("a" to "My physician is Dr. Sato", "b" to "The automobile needs oil", "c" to "Milk and bread")
        for ((id, text) in texts) app.services.notes.write(id, Note(id, text, 0))
    }

    private fun show() = showScreen { TasksScreen(null, {}, {}, onOpenModels = { modelsOpened++ }) }.also {
        rule.waitFor { exists("open-notes") }
        rule.onNodeWithTag("open-notes").performScrollTo().performClick()
        rule.waitFor { exists("search-notes") }
    }

    private fun type(query: String) = rule.onNodeWithTag("search-notes").performTextReplacement(query)

    private fun ask(question: String) {
        type(question)
        rule.waitFor { exists("ask-notes") }
        rule.onNodeWithTag("ask-notes").performClick()
    }

    private fun text(id: Int) = rule.onNodeWithText(app.getString(id))

    private fun exists(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes().isNotEmpty()

    private fun scrollTo(tag: String) =
        rule.onNodeWithTag("found-notes").performScrollToNode(hasTestTag(tag)).run { rule.onNodeWithTag(tag) }

    @Test
    fun `without a model that embeds, words are found, and what is missing is said`() {
        show()
        type("AUTOMOBILE")
        rule.waitFor { exists("no-embedder") }
        assertTrue(exists("note-b") && !exists("note-a") && !exists("ask-notes"))
        text(R.string.tasks_open_models).performClick()
        assertEquals(1, modelsOpened)
        type("doctor")
        rule.waitFor { exists("no-embedder") && !exists("note-b") }
        text(R.string.notes_nothing_found).assertIsDisplayed()
        rule.onNodeWithContentDescription(app.getString(R.string.notes_search_clear)).performClick()
        rule.waitFor { listOf("note-a", "note-b", "note-c").all(::exists) }
    }

    @Test
    fun `with one, notes of like meaning are found, the best first`() {
        app.installEmbedder()
        show()
        type("who is my doctor")
        rule.waitFor { exists("note-a") }
        text(R.string.notes_by_meaning).assertIsDisplayed()
        rule.onNodeWithTag("note-a").performClick()
        rule.onNodeWithTag("note-text").assertTextContains("My physician is Dr. Sato")
        rule.onNodeWithContentDescription(app.getString(R.string.task_back)).performClick()
        rule.waitFor { exists("note-a") } // the query is still there
    }

    @Test
    fun `a query that is there before the notes are read does not empty the index`() {
        app.installEmbedder()
        val notes = app.services.notes
        val search = NoteSearchViewModel(app.services)
        search.search("who is my doctor", notes.all().values.toList())
        rule.waitFor { search.state.value.found != null }
        val embedded = app.embedder.embedded.toList()
        synchronized(notes) { // they cannot be read meanwhile
            showScreen { NotesPage(NotesViewModel(app.services), {}, {}, {}, search = search) }
            repeat(10) { // what happens in a second, as nothing shall
                Thread.sleep(30)
                ShadowLooper.idleMainLooper(100, TimeUnit.MILLISECONDS)
                rule.waitForIdle()
            }
        }
        rule.waitFor { app.embedder.embedded.size > embedded.size && exists("note-a") }
        assertEquals("no note anew", listOf("who is my doctor"), app.embedder.embedded.drop(embedded.size))
    }

    @Test
    fun `an answer comes from the best notes, which are numbered and can be opened`() {
        app.install()
        app.installEmbedder()
        app.engine.answers += "<think>Who was it? </think>Dr. Sato."
        show()
        ask("who is my doctor")
        rule.waitFor { exists("source-1") && exists("answer") }
        rule.onNodeWithTag("answer").assertTextEquals("Dr. Sato.")
        val prompt = app.engine.prompts.single()
        assertTrue(prompt, "[1] My physician is Dr. Sato\n[2] " in prompt && "Question: who is my doctor" in prompt)
        scrollTo("source-1").assertTextContains("My physician is Dr. Sato").performClick()
        rule.onNodeWithTag("note-text").assertTextContains("My physician is Dr. Sato")
        rule.onNodeWithContentDescription(app.getString(R.string.task_back)).performClick()
        rule.waitFor { exists("answer") } // it is still there
        type("something else")
        rule.waitFor { !exists("answer") && !exists("source-1") }
    }

    @Test
    fun `an answer can be stopped`() {
        app.install()
        app.installEmbedder()
        app.engine.answers += "One two three"
        app.engine.isPaced = true
        show()
        ask("who is my doctor")
        rule.waitFor { exists("answer") }
        rule.onNodeWithTag("stop").performClick()
        rule.waitFor { exists("ask-notes") }
        rule.onNodeWithTag("answer").assertTextEquals("One ")
        text(R.string.task_stopped).assertIsDisplayed()
    }

    @Test
    fun `without a model to talk to it is said`() {
        app.installEmbedder()
        app.services.models.refresh()
        show()
        ask("who is my doctor")
        rule.waitFor { exists("task-problem") }
        text(R.string.problem_no_model).assertIsDisplayed()
    }

    @Test
    fun `what does not fit into the context is left out`() {
        app.install()
        app.installEmbedder()
        val long = List(300) { "physician" }.joinToString(" ")
        app.services.notes.write("long", Note("long", "$long\n\nsomething else entirely", 0))
        show()
        ask("doctor")
        rule.waitFor { exists("source-1") }
        val prompt = app.engine.prompts.single()
        assertTrue("${prompt.length}", prompt.length < 512) // the fake engine counts bytes
        rule.onNodeWithTag("source-2").assertDoesNotExist()
    }

    @Test
    fun `typing goes on while notes are embedded`() {
        app.installEmbedder()
        show()
        rule.onNodeWithTag("search-notes").performTextInput("who is")
        rule.onNodeWithTag("search-notes").performTextInput(" my doctor")
        rule.waitFor { exists("note-a") }
        assertEquals(1, app.embedder.embedded.count { it.startsWith("who is") })
    }
}
