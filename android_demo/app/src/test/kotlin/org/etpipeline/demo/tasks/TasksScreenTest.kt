package org.etpipeline.demo.tasks

import android.content.ClipboardManager
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsNotEnabled
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onFirst
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.test.performTextInput
import androidx.test.core.app.ApplicationProvider
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.waitFor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
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
class TasksScreenTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val viewModel by lazy { TaskViewModel(app.services) }
    private var asked: String? = null

    @Before
    fun startEmpty() = app.startEmpty()

    @Test
    fun `without a model it says where to get one, and the notes are there`() {
        show()
        text(R.string.tasks_no_model_title).assertIsDisplayed()
        rule.onNodeWithTag("open-notes").performClick()
        text(R.string.notes_empty_title).assertIsDisplayed()
    }

    @Test
    fun `a new bundle brings its own tasks`() {
        val poem = """{"poem": {"title": "Write a poem", "template": "Poem about {text}", "max_new_tokens": 9}}"""
        import(TestBundle.whole.edited("tasks", poem).edited("samples", "[]"))
        show()
        rule.onNodeWithText("Write a poem").performClick()
        run("spring")
        assertTrue("Poem about spring" in app.engine.prompts.single())
        rule.onNodeWithTag("open-task-translate").assertDoesNotExist()
    }

    @Test
    fun `a reply is copied by a tap`() {
        import()
        app.engine.answers += "- Sure!\n- Sorry, no.\n- Later?"
        show()
        open("smart_reply")
        rule.onNodeWithTag("run").assertIsNotEnabled()
        run("Are you coming?")
        assertEquals(3, rule.onAllNodesWithTag("reply").fetchSemanticsNodes().size)
        rule.onNodeWithText("Sorry, no.").performScrollTo().performClick()
        val clipboard = app.getSystemService(ClipboardManager::class.java)
        rule.waitFor { clipboard.primaryClip?.getItemAt(0)?.text == "Sorry, no." }
    }

    @Test
    fun `the chosen language is in the prompt`() {
        import()
        show()
        open("translate")
        run("Good morning")
        rule.onNodeWithText("German").performScrollTo().performClick()
        rule.onNodeWithTag("run").performScrollTo().performClick()
        rule.waitFor { app.engine.prompts.size == 2 && !isRunning() }
        assertTrue("Translate to French: Good morning" in app.engine.prompts.first())
        assertTrue("Translate to German: Good morning" in app.engine.prompts.last())
        assertFalse("a conversation of its own", "French" in app.engine.prompts.last())
    }

    @Test
    fun `the disclaimer and the doctor are always in sight`() {
        import()
        app.engine.answers += List(200) { "Rest." }.joinToString(" ")
        show()
        open("symptom_check")
        run("headache ".repeat(100))
        rule.onNodeWithTag("answer").performScrollTo()
        text(R.string.task_symptom_check_help).assertIsDisplayed()
        rule.onNodeWithText(TestBundle.whole.manifest.substringAfter("\"disclaimer\": \"").substringBefore('"')).assertIsDisplayed()
    }

    @Test
    fun `stopping keeps what has come`() {
        import()
        app.engine.answers += "one two three"
        app.engine.isPaced = true
        show()
        open("summarize")
        rule.onNodeWithTag("task-text").performTextInput("A long text.")
        rule.onNodeWithTag("run").performClick()
        rule.waitFor { viewModel.state.value.run?.answer.orEmpty().isNotEmpty() }
        rule.onNodeWithTag("stop").performScrollTo().performClick()
        rule.waitFor { !isRunning() }
        text(R.string.task_stopped).performScrollTo().assertIsDisplayed()
        assertEquals("one", viewModel.state.value.run?.answer?.trim())
        assertEquals(TaskRun.Phase.STOPPED, viewModel.state.value.run?.phase)
    }

    @Test
    fun `shared text goes into a task, a note or the chat`() {
        import()
        show("Shared words")
        rule.onNodeWithText("Shared words").assertIsDisplayed()
        open("summarize")
        rule.onNodeWithText("Shared words").assertIsDisplayed()
        rule.onNodeWithTag("run").performClick()
        rule.waitFor { app.engine.prompts.isNotEmpty() && !isRunning() }
        assertTrue("Shared words" in app.engine.prompts.single())

        show("For a note")
        rule.onNodeWithTag("share-note").performScrollTo().performClick()
        rule.onNodeWithTag("note-text").assertIsDisplayed()
        rule.waitFor { app.services.notes.all().values.any { it.text == "For a note" } }

        show("For the chat")
        rule.onNodeWithTag("share-chat").performScrollTo().performClick()
        assertEquals("For the chat", asked)
    }

    @Test
    fun `going back leaves the task`() {
        import()
        show()
        open("translate")
        rule.onNodeWithContentDescription(app.getString(R.string.task_back)).performClick()
        rule.onNodeWithTag("open-task-translate").assertIsDisplayed()
        rule.onAllNodesWithText(app.getString(R.string.tasks_title)).onFirst().assertIsDisplayed()
    }

    private fun show(shared: String? = null) {
        var text by mutableStateOf(shared)
        showScreen {
            TasksScreen(text, onSharedTextTaken = { text = null }, onAskInChat = { asked = it }, {}, tasks = viewModel)
        }
    }

    private fun open(key: String) {
        rule.onNodeWithTag("open-task-$key").performScrollTo().performClick()
    }

    private fun run(text: String) {
        rule.onNodeWithTag("task-text").performTextInput(text)
        rule.onNodeWithTag("run").performScrollTo().performClick()
        rule.waitFor { viewModel.state.value.run != null && !isRunning() }
    }

    private fun isRunning() = viewModel.state.value.run?.isRunning == true

    private fun text(id: Int) = rule.onNodeWithText(app.getString(id))

    private fun import(bundle: TestBundle = TestBundle.whole) {
        app.services.store.import(bundle.source())
        app.services.models.refresh()
    }
}
