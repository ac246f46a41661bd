package org.etpipeline.demo.chat

import android.content.ClipboardManager
import android.content.ComponentCallbacks2.TRIM_MEMORY_BACKGROUND
import android.content.Intent
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsNotEnabled
import androidx.compose.ui.test.assertTextContains
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithContentDescription
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onFirst
import androidx.compose.ui.test.onLast
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performImeAction
import androidx.compose.ui.test.performTextInput
import androidx.compose.ui.test.performTextReplacement
import androidx.compose.ui.test.performScrollTo
import androidx.test.core.app.ApplicationProvider
import org.etpipeline.core.Problem
import org.etpipeline.core.Role
import org.etpipeline.demo.FakeEngine
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.install
import org.etpipeline.demo.show
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
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class ChatScreenTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val engine get() = app.engine
    private val viewModel by lazy { ChatViewModel(app.services) }
    private val turns get() = viewModel.state.value.turns
    private var openedModels = 0

    @Before
    fun installModel() {
        app.startEmpty()
        app.install()
    }

    private fun show(model: ChatViewModel = viewModel) = showScreen {
        ChatScreen("", {}, onOpenModels = { openedModels++ }, viewModel = model)
    }

    private fun string(id: Int, vararg arguments: Any) = app.getString(id, *arguments)
    private fun text(id: Int) = rule.onNodeWithText(string(id))
    private fun idle() = rule.waitFor { viewModel.state.value.phase == ChatState.Phase.IDLE }
    private fun button(id: Int) = rule.onNodeWithContentDescription(string(id))
    private fun texts(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes()
        .map { node -> node.config[SemanticsProperties.Text].joinToString("") { it.text } }

    private fun say(text: String) {
        rule.onNodeWithTag("chat-input").performTextInput(text)
        rule.onNodeWithTag("send").performClick()
        rule.waitFor { turns.lastOrNull { it.role == Role.USER }?.text == text }
    }

    @Test
    fun `without a model it says where to get one`() {
        app.startEmpty()
        show()
        text(R.string.chat_no_model_title).assertIsDisplayed()
        text(R.string.chat_open_models).performClick()
        assertEquals(1, openedModels)
    }

    @Test
    fun `an example answers with one tap`() {
        engine.answers += "Rome, of course."
        show()
        rule.onAllNodesWithTag("example").onFirst().performClick()
        rule.waitFor { turns.size == 2 }
        idle()
        assertEquals(listOf("What is the capital of Italy?"), texts("question"))
        assertEquals(listOf("Rome, of course."), texts("answer"))
        rule.onNodeWithTag("stats").assertTextContains("tok/s", substring = true)
    }

    @Test
    fun `nothing blank is sent`() {
        show()
        rule.onNodeWithTag("send").assertIsNotEnabled()
        rule.onNodeWithTag("chat-input").performTextInput("   ")
        rule.onNodeWithTag("send").assertIsNotEnabled()
    }

    @Test
    fun `the keyboard sends`() {
        show()
        rule.onNodeWithTag("chat-input").performTextInput("hello")
        rule.onNodeWithTag("chat-input").performImeAction()
        rule.waitFor { turns.size == 2 }
    }

    @Test
    fun `the answer streams, and stop keeps what has come`() {
        engine.isPaced = true
        engine.answers += "one two three four"
        show()
        say("count")
        for (count in 1..2) {
            rule.waitFor { texts("answer").lastOrNull()?.trim()?.split(' ')?.size == count }
            if (count < 2) engine.step()
        }
        rule.onNodeWithTag("stop").performClick()
        idle()
        assertEquals(listOf("one two"), texts("answer").map { it.trim() })
        rule.onNodeWithTag("stats").assertTextContains(string(R.string.chat_end_stopped), substring = true)
        rule.onNodeWithTag("send").assertIsDisplayed()
    }

    @Test
    fun `a second turn feeds only itself`() {
        show()
        say("first")
        idle()
        say("second")
        idle()
        assertEquals(2, engine.prompts.size)
        assertTrue("first" in engine.prompts[0])
        assertTrue("second" in engine.prompts[1] && "first" !in engine.prompts[1])
        assertEquals(1, engine.loads)
    }

    @Test
    fun `answering again gives another answer, at a higher temperature`() {
        engine.answers += listOf("one", "another")
        show()
        say("hello")
        idle()
        button(R.string.chat_regenerate).performClick()
        rule.waitFor { texts("answer") == listOf("another") }
        assertEquals(0f, engine.temperatures[0])
        assertTrue(engine.temperatures[1] > 0.5f)
        assertEquals(2, turns.size)
    }

    @Test
    fun `editing a question replaces what follows`() {
        show()
        say("first")
        idle()
        say("second")
        idle()
        rule.onAllNodesWithContentDescription(string(R.string.chat_edit)).onFirst().performClick()
        text(R.string.chat_editing).assertIsDisplayed()
        rule.onNodeWithTag("chat-input").assertTextContains("first")
        rule.onNodeWithTag("chat-input").performTextReplacement("better")
        rule.onNodeWithTag("send").performClick()
        rule.waitFor { turns.size == 2 && viewModel.state.value.phase == ChatState.Phase.IDLE }
        assertEquals(listOf("better"), texts("question"))
        assertTrue("first" !in engine.prompts.last() && "better" in engine.prompts.last())
    }

    @Test
    fun `editing can be given up`() {
        show()
        say("first")
        idle()
        button(R.string.chat_edit).performClick()
        button(R.string.chat_edit_cancel).performClick()
        rule.onNodeWithText(string(R.string.chat_editing)).assertDoesNotExist()
        assertEquals(2, turns.size)
    }

    @Test
    fun `an answer is copied and shared`() {
        engine.answers += "an answer"
        show()
        say("hello")
        idle()
        button(R.string.chat_copy).performClick()
        val clipboard = app.getSystemService(ClipboardManager::class.java)
        rule.waitFor { clipboard.primaryClip?.getItemAt(0)?.text == "an answer" }
        button(R.string.chat_share).performClick()
        val chooser = shadowOf(app).nextStartedActivity
        val shared = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent::class.java)
        assertEquals("an answer", shared?.getStringExtra(Intent.EXTRA_TEXT))
    }

    @Test
    fun `turning the phone keeps the stream`() {
        engine.isPaced = true
        engine.answers += "one two three"
        val activity = show()
        say("count")
        rule.waitFor { texts("answer").isNotEmpty() }
        activity.recreate()
        activity.get().show { ChatScreen("", {}, {}, viewModel = viewModel) }
        engine.step(2)
        rule.waitFor { texts("answer") == listOf("one two three") }
    }

    @Test
    fun `a chat is there again after the process died, and goes on`() {
        engine.answers += "I am fine."
        show()
        say("how are you")
        idle()
        rule.waitFor { app.services.conversations.all().values.singleOrNull()?.turns?.size == 2 }
        val services = app.createServices() // as a new process does
        services.models.refresh()
        val later = ChatViewModel(services)
        show(later)
        rule.waitFor { later.state.value.turns.size == 2 }
        rule.onAllNodesWithTag("answer").onLast().assertTextContains("I am fine.")
        later.send("and now")
        rule.waitFor { later.state.value.turns.size == 4 }
        val fed = engine.prompts.last()
        assertTrue(fed, "how are you" in fed && "I am fine." in fed && "and now" in fed)
    }

    @Test
    fun `an answer that the process did not survive is marked, and can be asked again`() {
        engine.isPaced = true
        engine.answers += "one two three"
        show()
        say("count")
        rule.waitFor { texts("answer").isNotEmpty() }
        rule.waitFor { // saved while it streams
            app.services.conversations.all().values.singleOrNull()?.turns?.lastOrNull()?.unfinished == true
        }
        app.engine = FakeEngine().apply { answers += "all of it" }
        val services = app.createServices()
        services.models.refresh()
        val later = ChatViewModel(services)
        show(later)
        rule.waitFor { later.state.value.turns.size == 2 }
        rule.onAllNodesWithTag("stats").onLast().assertTextContains(string(R.string.chat_unfinished))
        later.regenerate()
        rule.waitFor { later.state.value.turns.last().text == "all of it" }
        assertEquals(false, later.state.value.turns.last().unfinished)
        assertEquals(0f, engine.temperatures.last()) // it is the first whole answer
    }

    @Test
    fun `what is asked while a chat still closes belongs to the one that opens`() {
        show()
        say("first chat")
        idle()
        val first = viewModel.state.value.conversation
        button(R.string.chat_new).performClick()
        rule.waitFor { turns.isEmpty() }
        engine.isPaced = true
        engine.isDeaf = true
        engine.answers += "one two three four"
        say("second chat")
        engine.step()
        rule.waitFor { turns.size == 2 }
        rule.runOnUiThread {
            viewModel.open(first)
            viewModel.send("more of the first")
        }
        engine.isPaced = false
        engine.step(2)
        rule.waitFor { turns.size == 4 && viewModel.state.value.phase == ChatState.Phase.IDLE }
        assertEquals(first.id, viewModel.state.value.conversation.id)
        assertEquals(listOf("first chat", "more of the first"), turns.filter { it.role == Role.USER }.map { it.text })
        rule.waitFor { app.services.conversations.all()[first.id]?.turns?.size == 4 }
        val second = app.services.conversations.all().values.single { it.id != first.id }
        assertEquals("second chat", second.turns.first().text)
    }

    @Test
    fun `earlier chats are listed, opened and deleted`() {
        show()
        say("first chat")
        idle()
        button(R.string.chat_new).performClick()
        rule.waitFor { turns.isEmpty() }
        say("second chat")
        idle()
        button(R.string.chat_history).performClick()
        assertEquals(2, rule.onAllNodesWithTag("conversation").fetchSemanticsNodes().size)
        rule.onNodeWithText("first chat").performClick()
        rule.waitFor { texts("question") == listOf("first chat") }
        button(R.string.chat_history).performClick()
        button2(R.string.history_delete_this, "first chat").performClick()
        text(R.string.delete).performClick()
        rule.waitFor { rule.onAllNodesWithTag("conversation").fetchSemanticsNodes().size == 1 }
        rule.waitFor { app.services.conversations.all().size == 1 }
        button(R.string.back).performClick()
        rule.waitFor { turns.isEmpty() } // the open chat was the deleted one
    }

    private fun button2(id: Int, argument: String) = rule.onNodeWithContentDescription(string(id, argument))

    @Test
    fun `when the context is full the oldest turns are left out, and it says so`() {
        show()
        say("one")
        idle()
        say("two")
        idle()
        engine.droppedPrompts = 1 // the new turn does not fit behind what was said
        say("three")
        idle()
        rule.waitFor { viewModel.state.value.leftOut == 2 }
        rule.onNodeWithTag("turns").assertExists()
        assertTrue("one" !in engine.prompts.last() && "two" in engine.prompts.last())
        assertEquals(6, turns.size)
    }

    @Test
    fun `a message that does not fit at all is a sentence, and a new chat is offered`() {
        engine.droppedPrompts = 99
        show()
        say("far too long")
        idle()
        rule.onNodeWithTag("problem").assertIsDisplayed()
        rule.onNodeWithText(string(R.string.problem_prompt_too_long)).assertIsDisplayed()
        text(R.string.chat_new).performClick()
        rule.waitFor { turns.isEmpty() }
    }

    @Test
    fun `a failure is a sentence, and the question can be asked again`() {
        engine.problem = Problem.EngineFailed("no such operator")
        show()
        say("hello")
        idle()
        rule.onNodeWithText("no such operator", substring = true).assertIsDisplayed()
        engine.problem = null
        text(R.string.chat_answer_this).performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf("ok") }
        assertTrue(rule.onAllNodesWithText("no such operator", substring = true).fetchSemanticsNodes().isEmpty())
    }

    @Test
    fun `a phone with too little memory is told so before anything is loaded`() {
        app.phone.totalRam = 500_000_000
        show()
        say("hello")
        idle()
        assertEquals(0, engine.loads)
        rule.onNodeWithTag("problem").assertIsDisplayed()
        text(R.string.chat_open_models).performClick()
        assertEquals(1, openedModels)
    }

    @Test
    fun `memory pressure frees the model, and the next question loads it again and feeds the chat again`() {
        show()
        say("first")
        idle()
        app.onTrimMemory(TRIM_MEMORY_BACKGROUND)
        rule.waitFor { engine.isClosed }
        say("second")
        idle()
        assertEquals(2, engine.loads)
        assertTrue("first" in engine.prompts.last() && "second" in engine.prompts.last())
    }

    @Test
    fun `memory pressure during an answer waits for its end`() {
        engine.isPaced = true
        engine.answers += "one two"
        show()
        say("count")
        rule.waitFor { texts("answer").isNotEmpty() }
        app.onTrimMemory(TRIM_MEMORY_BACKGROUND)
        assertEquals(false, engine.isClosed)
        engine.step()
        rule.waitFor { engine.isClosed }
        assertEquals("one two", turns.last().text)
    }
}
