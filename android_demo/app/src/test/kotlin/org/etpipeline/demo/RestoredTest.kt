package org.etpipeline.demo

import android.content.Intent
import android.os.Bundle
import android.os.Parcel
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsSelected
import androidx.compose.ui.test.assertTextContains
import androidx.compose.ui.test.assertTextEquals
import androidx.compose.ui.test.hasClickAction
import androidx.compose.ui.test.hasText
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onFirst
import androidx.compose.ui.test.onLast
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.test.performTextInput
import androidx.compose.ui.test.performTextReplacement
import androidx.lifecycle.ViewModel
import androidx.lifecycle.ViewModelProvider
import java.io.InputStream
import java.util.concurrent.CountDownLatch
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BenchmarkPlan
import org.etpipeline.core.BundleSource
import org.etpipeline.core.Note
import org.etpipeline.core.Problem
import org.etpipeline.demo.benchmark.BenchmarkViewModel
import org.etpipeline.demo.chat.ChatViewModel
import org.etpipeline.demo.models.ModelsViewModel
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Whatever the user was at is there again: after the phone was turned, and after the system has ended the app. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class, qualifiers = PHONE)
class RestoredTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app get() = testApp
    private lateinit var activity: ActivityController<MainActivity>

    @Before
    fun open() {
        runBlocking { app.services.startup.state.first { it.isDone } }
        activity = Robolectric.buildActivity(MainActivity::class.java).setup()
    }

    @After
    fun close() {
        activity.close()
    }

    // --- what happens to the app

    private fun turn() {
        val isUpright = "-port" in RuntimeEnvironment.getQualifiers()
        RuntimeEnvironment.setQualifiers(if (isUpright) "w891dp-h411dp-land" else "w411dp-h891dp-port")
        activity.recreate()
        rule.waitForIdle()
    }

    /** The system ends the hidden app; only bytes remain, and the user comes back. */
    private fun end() {
        val saved = Bundle()
        activity.pause().stop().saveInstanceState(saved).destroy()
        app.startAgain()
        activity = Robolectric.buildActivity(MainActivity::class.java).setup(saved.throughParcel())
        rule.waitForIdle()
    }

    private fun Bundle.throughParcel(): Bundle {
        val written = Parcel.obtain()
        val read = Parcel.obtain()
        try {
            written.writeBundle(this)
            val bytes = written.marshall()
            read.unmarshall(bytes, 0, bytes.size)
            read.setDataPosition(0)
            return checkNotNull(read.readBundle(MainActivity::class.java.classLoader))
        } finally {
            written.recycle()
            read.recycle()
        }
    }

    private fun isThereAgain(check: () -> Unit) {
        check()
        turn()
        check()
        end()
        check()
    }

    // --- what the user does and sees

    private fun string(id: Int, vararg arguments: Any) = app.getString(id, *arguments)
    private fun tag(tag: String) = rule.onNodeWithTag(tag)
    private fun exists(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes().isNotEmpty()
    private fun shows(text: String) = rule.onAllNodesWithText(text).fetchSemanticsNodes().isNotEmpty()
    private fun icon(id: Int, vararg arguments: Any) = rule.onNodeWithContentDescription(string(id, *arguments))
    private fun go(place: Int) = rule.onAllNodes(hasText(string(place)) and hasClickAction()).onLast().performClick()
    private fun texts(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes()
        .map { node -> node.config[SemanticsProperties.Text].joinToString("") { it.text }.trim() }

    private inline fun <reified T : ViewModel> viewModel(): T {
        rule.waitForIdle() // it is made with its screen
        return ViewModelProvider(activity.get())[T::class.java]
    }

    private fun say(text: String, answer: String) {
        app.engine.answers += answer
        tag("chat-input").performTextReplacement(text)
        tag("send").performClick()
        rule.waitFor { texts("answer").lastOrNull() == answer && exists("send") }
        rule.waitFor { saved(answer)?.unfinished == false }
    }

    /** The message on the disk that has this text. */
    private fun saved(text: String) =
        app.services.conversations.all().values.flatMap { it.turns }.find { it.text.trim() == text }

    private fun openTask(key: String) {
        go(R.string.place_tasks)
        tag("open-task-$key").performScrollTo().performClick()
    }

    private fun openNotes(vararg texts: String) {
        texts.forEachIndexed { index, text -> app.services.notes.write("$index", Note("$index", text, index.toLong())) }
        go(R.string.place_tasks)
        tag("open-notes").performScrollTo().performClick()
        rule.waitFor { exists("search-notes") }
    }

    // --- the chat

    @Test
    fun `what is typed, also over an earlier question`() {
        say("first", "one")
        rule.onAllNodesWithTag("question").onFirst().assertTextEquals("first")
        icon(R.string.chat_edit).performClick()
        tag("chat-input").performTextReplacement("first, but better")
        isThereAgain {
            rule.waitFor { texts("question") == listOf("first") }
            tag("chat-input").assertTextContains("first, but better")
            rule.onNodeWithText(string(R.string.chat_editing)).assertIsDisplayed()
        }
        icon(R.string.chat_history).performClick()
        icon(R.string.back).performClick()
        tag("chat-input").assertTextContains("first, but better")
        tag("send").performClick()
        rule.waitFor { texts("question") == listOf("first, but better") }
    }

    @Test
    fun `what is typed belongs to its chat`() {
        say("first", "one")
        tag("chat-input").performTextInput("half a thought")
        icon(R.string.chat_new).performClick()
        rule.waitFor { texts("question").isEmpty() }
        rule.waitFor { !shows("half a thought") }
    }

    @Test
    fun `an answer that comes goes on when the phone is turned, and can be continued after the end of the app`() {
        app.engine.isPaced = true
        app.engine.answers += "one two three"
        tag("chat-input").performTextInput("count")
        tag("send").performClick()
        rule.waitFor { texts("answer") == listOf("one") }
        turn()
        app.engine.step()
        rule.waitFor { texts("answer") == listOf("one two") && saved("one two") != null }
        end()
        rule.waitFor { exists("stats") }
        assertEquals(listOf("one two"), texts("answer"))
        tag("stats").assertTextEquals(string(R.string.chat_unfinished))
        app.engine.answers += "three"
        tag("go-on").performClick()
        rule.waitFor { texts("answer") == listOf("one two three") }
    }

    @Test
    fun `settings of a chat in which nothing was said yet, and their sheet`() {
        icon(R.string.chat_menu).performClick()
        isThereAgain { rule.waitFor { shows(string(R.string.export_share)) } }
        rule.onNodeWithText(string(R.string.settings_title)).performClick()
        tag("system-prompt").performTextReplacement("Be brief.")
        isThereAgain {
            rule.waitFor { exists("system-prompt") }
            tag("system-prompt").assertTextContains("Be brief.")
        }
        assertEquals("Be brief.", viewModel<ChatViewModel>().state.value.settings.systemPrompt)
    }

    @Test
    fun `the earlier chats with a search, and the question whether to delete one`() {
        say("about pencils", "one")
        icon(R.string.chat_new).performClick()
        rule.waitFor { texts("question").isEmpty() }
        say("about tents", "two")
        icon(R.string.chat_history).performClick()
        tag("history-search").performTextInput("pencil")
        icon(R.string.history_delete_this, "about pencils").performClick()
        isThereAgain {
            rule.waitFor { shows(string(R.string.history_delete_title)) }
            tag("history-search").assertTextContains("pencil")
        }
        rule.onNodeWithText(string(R.string.delete)).performClick()
        rule.waitFor { app.services.conversations.all().values.map { it.title } == listOf("about tents") }
    }

    // --- tasks and notes

    @Test
    fun `a task's form and its result`() {
        openTask("translate")
        tag("task-text").performTextInput("The train is late.")
        rule.onNodeWithText("German").performScrollTo().performClick()
        app.engine.answers += "Der Zug hat Verspätung."
        tag("run").performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf("Der Zug hat Verspätung.") }
        isThereAgain {
            rule.waitFor { exists("answer") }
            assertEquals(listOf("Der Zug hat Verspätung."), texts("answer"))
            tag("task-text").assertTextContains("The train is late.")
            rule.onNodeWithText("German").assertIsSelected()
        }
    }

    @Test
    fun `what came of a task that runs`() {
        openTask("summarize")
        tag("task-text").performTextInput("A long text.")
        app.engine.isPaced = true
        app.engine.answers += "one two"
        tag("run").performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf("one") }
        turn()
        assertEquals(listOf("one"), texts("answer"))
        end()
        rule.waitFor { shows(string(R.string.task_stopped)) }
        assertEquals(listOf("one"), texts("answer"))
        tag("task-text").assertTextContains("A long text.")
        app.engine.answers += "all of it"
        tag("run").performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf("all of it") }
    }

    @Test
    fun `a note that is written, its summary, and the question whether to delete it`() {
        openNotes("Bring the tent")
        tag("note-0").performClick()
        tag("note-text").performTextReplacement("Bring the tent and the umbrella")
        app.engine.answers += "Bring both."
        tag("summarize").performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf("Bring both.") }
        rule.waitFor { "umbrella" in app.services.notes.all().getValue("0").text }
        icon(R.string.notes_delete).performClick()
        isThereAgain {
            rule.waitFor { shows(string(R.string.notes_delete_title)) }
            tag("note-text").assertTextContains("Bring the tent and the umbrella")
            assertEquals(listOf("Bring both."), texts("answer"))
        }
        assertEquals("Bring the tent and the umbrella", app.services.notes.all().getValue("0").text)
    }

    @Test
    fun `a search in the notes, what it found, and what was answered from which notes`() {
        app.installEmbedder()
        openNotes("My physician is Dr. Sato", "Milk and bread")
        tag("search-notes").performTextInput("who is my doctor")
        isThereAgain {
            rule.waitFor { exists("note-0") }
            tag("search-notes").assertTextContains("who is my doctor")
        }
        app.engine.answers += "Dr. Sato [1]."
        rule.waitFor { exists("ask-notes") }
        tag("ask-notes").performClick()
        isThereAgain {
            rule.waitFor { texts("answer") == listOf("Dr. Sato [1].") }
            rule.waitFor { exists("source-1") }
            tag("source-1").assertTextContains("My physician is Dr. Sato")
        }
    }

    @Test
    fun `a text that another app shared, until it is known what for`() {
        val share = Intent(Intent.ACTION_SEND).setType("text/plain")
        activity.newIntent(share.putExtra(Intent.EXTRA_TEXT, "See you at eight."))
        isThereAgain {
            rule.waitFor { exists("share") }
            rule.onNodeWithText("See you at eight.").assertIsDisplayed()
        }
        tag("share-chat").performScrollTo().performClick()
        isThereAgain {
            rule.waitFor { exists("chat-input") }
            tag("chat-input").assertTextContains("See you at eight.")
        }
    }

    // --- models and the benchmark

    @Test
    fun `the question whether to delete a model`() {
        go(R.string.place_models)
        rule.waitFor { shows(string(R.string.models_delete)) }
        rule.onNodeWithText(string(R.string.models_delete)).performScrollTo().performClick()
        isThereAgain { rule.waitFor { exists("confirm-delete") } }
    }

    @Test
    fun `an import goes on when the phone is turned, and after the end of the app it says that it did not`() {
        go(R.string.place_models)
        val gate = CountDownLatch(1)
        val before = app.services.store.list().map { it.id }
        viewModel<ModelsViewModel>().import {
            object : BundleSource {
                override val name = "slow.zip"
                override val totalBytes = 1_000L
                override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) = gate.await()
            }
        }
        rule.waitFor { exists("importing") }
        turn()
        tag("importing").assertExists()
        end()
        rule.waitFor { shows(string(R.string.problem_interrupted)) }
        assertEquals(Problem.Interrupted, viewModel<ModelsViewModel>().state.value.problem)
        tag("importing").assertDoesNotExist()
        assertEquals(before, app.services.store.list().map { it.id })
        gate.countDown()
    }

    @Test
    fun `what to measure, and the report`() {
        go(R.string.place_benchmark)
        viewModel<BenchmarkViewModel>().change(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        repeat(20) { app.engine.answers += List(17) { "word" }.joinToString(" ") }
        tag("benchmark-start").performScrollTo().performClick()
        rule.waitFor { exists("benchmark-report") }
        val report = viewModel<BenchmarkViewModel>().state.value.report
        isThereAgain {
            rule.waitFor { exists("benchmark-report") }
            val state = viewModel<BenchmarkViewModel>().state.value
            assertEquals(report to BenchmarkPlan(32, 16, 1), state.report to state.plan)
        }
    }

    @Test
    fun `a measurement goes on when the phone is turned, and after the end of the app it says that it did not`() {
        go(R.string.place_benchmark)
        app.engine.isPaced = true
        repeat(20) { app.engine.answers += "one two" }
        tag("benchmark-start").performScrollTo().performClick()
        rule.waitFor { exists("benchmark-progress") }
        turn()
        tag("benchmark-progress").assertExists()
        end()
        rule.waitFor { shows(string(R.string.problem_interrupted)) }
        tag("benchmark-progress").assertDoesNotExist()
    }
}
