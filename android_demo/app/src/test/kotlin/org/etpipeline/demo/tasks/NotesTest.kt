package org.etpipeline.demo.tasks

import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.test.performTextInput
import androidx.test.core.app.ApplicationProvider
import org.etpipeline.core.Note
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
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

@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class, qualifiers = "w411dp-h891dp-420dpi")
class NotesTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val notes = app.services.notes

    @Before
    fun startEmpty() = app.startEmpty()

    @Test
    fun `what is typed is saved without a button`() {
        show()
        rule.onNodeWithTag("new-note").performClick()
        rule.onNodeWithTag("note-text").performTextInput("Milk, bread")
        rule.waitFor { notes.all().values.map { it.text } == listOf("Milk, bread") }
        back()
        rule.onNodeWithText("Milk, bread").assertIsDisplayed()
    }

    @Test
    fun `the last words are saved when the app is left`() {
        val activity = show()
        rule.onNodeWithTag("new-note").performClick()
        rule.onNodeWithTag("note-text").performTextInput("Last words")
        activity.pause().stop() // the main thread's clock stands still: it is not the autosave
        rule.waitFor { notes.all().values.map { it.text } == listOf("Last words") }
    }

    @Test
    fun `an empty note is none`() {
        show()
        rule.onNodeWithTag("new-note").performClick()
        back()
        text(R.string.notes_empty_title).assertIsDisplayed()
        assertTrue(notes.all().isEmpty())
    }

    @Test
    fun `a note is deleted after a question`() {
        notes.write("1", Note("1", "Old note", 0))
        show()
        rule.waitFor { exists("note-1") }
        rule.onNodeWithTag("note-1").performClick()
        rule.onNodeWithContentDescription(app.getString(R.string.notes_delete)).performClick()
        rule.onNodeWithTag("confirm-delete").performClick()
        rule.waitFor { notes.all().isEmpty() }
        text(R.string.notes_empty_title).assertIsDisplayed()
    }

    @Test
    fun `a summary is added to the note`() {
        app.services.store.import(TestBundle.whole.source())
        app.services.models.refresh()
        app.engine.answers += "Short."
        notes.write("1", Note("1", "A long note", 0))
        show()
        rule.waitFor { exists("note-1") }
        rule.onNodeWithTag("note-1").performClick()
        rule.onNodeWithTag("summarize").performScrollTo().performClick()
        rule.waitFor { exists("add-summary") }
        assertTrue("A long note" in app.engine.prompts.single())
        rule.onNodeWithTag("add-summary").performScrollTo().performClick()
        rule.waitFor { notes.read("1")?.text == "A long note\n\nShort.\n" }
    }

    @Test
    fun `without a model there is no summary`() {
        notes.write("1", Note("1", "A long note", 0))
        show()
        rule.waitFor { exists("note-1") }
        rule.onNodeWithTag("note-1").performClick()
        rule.onNodeWithTag("summarize").assertDoesNotExist()
    }

    @Test
    fun `the newest note is first`() {
        notes.write("old", Note("old", "Old", 1_000))
        notes.write("new", Note("new", "New", 2_000))
        val viewModel = NotesViewModel(app.services)
        rule.waitFor { viewModel.state.value.notes != null }
        assertEquals(listOf("new", "old"), viewModel.state.value.notes?.map { it.id })
        viewModel.edit("old", "Newer")
        assertEquals(listOf("old", "new"), viewModel.state.value.notes?.map { it.id })
    }

    private fun show() = showScreen { TasksScreen(null, {}, {}, {}) }.also {
        rule.waitFor { exists("open-notes") }
        rule.onNodeWithTag("open-notes").performScrollTo().performClick()
    }

    private fun back() = rule.onNodeWithContentDescription(app.getString(R.string.task_back)).performClick()

    private fun text(id: Int) = rule.onNodeWithText(app.getString(id))

    private fun exists(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes().isNotEmpty()
}
