package org.etpipeline.demo.chat

import android.app.Activity
import android.content.ClipboardManager
import android.content.Intent
import android.net.Uri
import androidx.compose.ui.semantics.SemanticsActions
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsNotEnabled
import androidx.compose.ui.test.assertIsOff
import androidx.compose.ui.test.assertIsOn
import androidx.compose.ui.test.assertTextContains
import androidx.compose.ui.test.assertTextEquals
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onLast
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.test.performSemanticsAction
import androidx.compose.ui.test.performTextReplacement
import androidx.test.core.app.ApplicationProvider
import java.io.ByteArrayOutputStream
import kotlinx.serialization.json.Json
import org.etpipeline.core.AnswerStats
import org.etpipeline.core.BatteryReading
import org.etpipeline.core.ChatFormat
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Conversation
import org.etpipeline.core.Generation.End
import org.etpipeline.core.Message
import org.etpipeline.core.Problem
import org.etpipeline.core.Role
import org.etpipeline.core.SavedMessage
import org.etpipeline.core.readManifest
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.install
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.waitFor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** What can be done with a chat beside asking: settings, how answers look, going on, export and search. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class ChatToolsTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val engine get() = app.engine
    private val viewModel by lazy { ChatViewModel(app.services) }
    private val turns get() = viewModel.state.value.turns

    @Before
    fun installModel() {
        app.startEmpty()
        app.install()
    }

    private fun show() = showScreen { ChatScreen("", {}, onOpenModels = {}, viewModel = viewModel) }
    private fun string(id: Int) = app.getString(id)
    private fun button(id: Int) = rule.onNodeWithContentDescription(string(id))
    private fun texts(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes()
        .map { node -> node.config[SemanticsProperties.Text].joinToString("") { it.text } }

    private fun ask(text: String, answer: String? = null) {
        answer?.let { engine.answers += it }
        val before = turns.size
        viewModel.send(text)
        rule.waitFor { turns.size == before + 2 && viewModel.state.value.phase == ChatState.Phase.IDLE }
    }

    private fun choose(id: Int) {
        rule.onNodeWithTag("chat-menu").performClick()
        rule.onNodeWithText(string(id)).performClick()
    }

    private fun slide(id: Int, value: Float) = rule.onNodeWithTag(string(id)).performScrollTo()
        .performSemanticsAction(SemanticsActions.SetProgress) { it(value) }

    @Test
    fun `settings count for this chat, are kept with it, and can be given back`() {
        show()
        choose(R.string.settings_title)
        rule.onNodeWithTag("own-settings").performScrollTo().assertIsNotEnabled()
        rule.onNodeWithTag("system-prompt").performScrollTo().performTextReplacement("Be brief.")
        slide(R.string.settings_temperature, 1.25f)
        slide(R.string.settings_top_p, 0.5f)
        slide(R.string.settings_longest, 0f)
        ask("hello")
        assertTrue(engine.prompts.last(), "Be brief." in engine.prompts.last())
        val request = engine.requests.last()
        assertEquals(1.25f, request.sampling.temperature, 1e-4f)
        assertEquals(0.5f, request.sampling.topP, 1e-4f)
        assertEquals(32, request.maxNewTokens)
        rule.waitFor { app.services.conversations.all().values.singleOrNull()?.settings?.systemPrompt == "Be brief." }

        rule.onNodeWithTag("own-settings").performScrollTo().performClick()
        rule.waitFor { viewModel.state.value.settings == ChatSettings() }
        ask("again")
        assertEquals(0f, engine.requests.last().sampling.temperature)
        assertFalse("Be brief." in engine.prompts.last())
        assertTrue("fed anew, as it begins in another way", "hello" in engine.prompts.last())
        rule.waitFor { app.services.conversations.all().values.single().settings == ChatSettings() }
    }

    @Test
    fun `penalties of an answer and a seed are set, and another answer is drawn without the seed`() {
        show()
        choose(R.string.settings_title)
        slide(R.string.settings_frequency, 0.5f)
        slide(R.string.settings_presence, 1.5f)
        rule.onNodeWithTag("seed").performScrollTo().performTextReplacement("-1x")
        assertNull("no number", viewModel.state.value.settings.seed)
        rule.onNodeWithTag("seed").performTextReplacement("42")
        ask("hello")
        val request = engine.requests.last()
        assertEquals(listOf(0.5f, 1.5f), listOf(request.frequencyPenalty, request.presencePenalty))
        assertEquals(42L, request.seed)
        viewModel.regenerate()
        rule.waitFor { engine.requests.size == 2 && viewModel.state.value.phase == ChatState.Phase.IDLE }
        assertNull(engine.requests.last().seed)
        rule.onNodeWithTag("seed").performScrollTo().performTextReplacement("")
        rule.waitFor { viewModel.state.value.settings.seed == null }
    }

    @Test
    fun `whether it thinks first is set where the model has a switch for that`() {
        show()
        choose(R.string.settings_title)
        rule.onNodeWithTag("thinks").assertDoesNotExist()
        val usual = readManifest(TestBundle.whole.manifest).chat.segments
        val quiet = usual.copy(userToAssistant = usual.userToAssistant + "<think></think>")
        val other = Json.encodeToString(ChatFormat.serializer(), quiet)
        app.services.store.import(TestBundle.whole.edited("chat.thinking", "{\"default\": true, \"other\": $other}").source())
            .let { app.services.models.select(it.id) }
        rule.waitFor { viewModel.state.value.own?.thinks == true }
        rule.onNodeWithTag("thinks").assertIsOn()
        ask("one")
        assertTrue(engine.prompts.last().endsWith(usual.userToAssistant))
        rule.onNodeWithTag("thinks").performScrollTo().performClick().assertIsOff()
        ask("two")
        assertEquals("the chat is fed in its other form", quiet.render(talk("one", "ok", "two")), engine.prompts.last())
        rule.waitFor { app.services.conversations.all().values.single().settings.thinks == false }
        rule.onNodeWithTag("thinks").performClick().assertIsOn()
        rule.waitFor { viewModel.state.value.settings == ChatSettings() }
    }

    private fun talk(vararg texts: String) =
        texts.mapIndexed { i, text -> Message(if (i % 2 == 0) Role.USER else Role.ASSISTANT, text) }

    @Test
    fun `what answers took from the battery is told with the settings, once it means something`() {
        app.phone.battery = BatteryReading(3_000_000, 4_000, plugged = false)
        app.phone.lostMicroAh = 600
        show()
        choose(R.string.settings_title)
        fun battery(text: String) = rule.onNodeWithText(app.getString(R.string.chat_battery, text))
        battery(string(R.string.chat_battery_few)).assertDoesNotExist() // nothing was said
        repeat(4) { ask("and on", List(60) { "word" }.joinToString(" ")) }
        rule.waitForIdle()
        battery(string(R.string.chat_battery_few)).assertExists()
        ask("and on", List(60) { "word" }.joinToString(" "))
        rule.waitForIdle()
        battery(app.getString(R.string.benchmark_mah, "10")).assertExists()
    }

    @Test
    fun `another chat has settings of its own`() {
        show()
        viewModel.set(ChatSettings(temperature = 1f))
        ask("hello")
        button(R.string.chat_new).performClick()
        rule.waitFor { turns.isEmpty() }
        ask("hello")
        assertEquals(listOf(1f, 0f), engine.temperatures)
    }

    @Test
    fun `an answer looks as its marks say, and code is copied`() {
        show()
        ask("how", "# Count\n\nIn **two** steps:\n\n1. one\n2. `two`\n\n```py\nx = 1\n```")
        assertEquals(listOf("Count"), texts("heading"))
        assertEquals(listOf("In two steps:"), texts("answer"))
        assertEquals(listOf("1.one", "2.two"), texts("item"))
        rule.onNodeWithTag("code").assertTextEquals("x = 1")
        button(R.string.chat_copy_code).performScrollTo().performClick()
        val clipboard = app.getSystemService(ClipboardManager::class.java)
        rule.waitFor { clipboard.primaryClip?.getItemAt(0)?.text == "x = 1" }
    }

    @Test
    fun `what the user writes stays as it was written`() {
        show()
        ask("# no **title**")
        assertEquals(listOf("# no **title**"), texts("question"))
    }

    @Test
    fun `a thought is folded, neither copied nor fed again`() {
        show()
        ask("capital", "<think>I wonder.</think>\n\nRome, of course.")
        assertEquals(listOf("Rome, of course."), texts("answer"))
        rule.onNodeWithTag("thought").assertDoesNotExist()
        rule.onNodeWithTag("thought-title").performClick()
        rule.onNodeWithTag("thought").assertTextEquals("I wonder.")
        assertNotNull(turns.last().thoughtMs)
        button(R.string.chat_copy).performClick()
        val clipboard = app.getSystemService(ClipboardManager::class.java)
        rule.waitFor { clipboard.primaryClip?.getItemAt(0)?.text == "Rome, of course." }
        ask("and Spain")
        assertTrue("Rome, of course." in engine.prompts.last())
        assertFalse("I wonder." in engine.prompts.last())
    }

    @Test
    fun `while it thinks that is all that is said`() {
        engine.isPaced = true
        engine.answers += "<think>I wonder. </think>Rome."
        show()
        viewModel.send("capital")
        rule.waitFor { turns.lastOrNull()?.text == "<think>I " }
        rule.onNodeWithTag("thought-title").assertTextContains(string(R.string.thought_thinking))
        assertTrue(texts("answer").isEmpty())
        engine.step(2)
        rule.waitFor { texts("answer") == listOf("Rome.") }
    }

    @Test
    fun `an answer that was stopped goes on, also after a restart`() {
        engine.isPaced = true
        engine.answers += "one two three"
        show()
        viewModel.send("count")
        rule.waitFor { turns.lastOrNull()?.text == "one " }
        viewModel.stop()
        rule.waitFor { viewModel.state.value.phase == ChatState.Phase.IDLE }
        val begun = turns.last().text
        engine.isPaced = false
        engine.answers += "and more"
        rule.onNodeWithTag("go-on").performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf(begun + "and more") }
        assertTrue(engine.prompts.last(), engine.prompts.last().endsWith(begun))
        rule.onNodeWithTag("go-on").assertDoesNotExist()

        val cut = turns.dropLast(1) + turns.last().copy(text = "uno ", unfinished = true)
        val saved = viewModel.state.value.conversation.copy(id = "cut", turns = cut)
        viewModel.open(saved)
        rule.waitFor { turns.last().text == "uno " }
        engine.answers += "dos"
        rule.onNodeWithTag("go-on").performScrollTo().performClick()
        rule.waitFor { texts("answer") == listOf("uno dos") }
        assertEquals("uno ".length, viewModel.state.value.asked.kept)
        assertTrue(engine.prompts.last(), "count" in engine.prompts.last() && engine.prompts.last().endsWith("uno "))
        viewModel.regenerate()
        rule.waitFor { turns.last().text == "ok" }
        assertEquals(0, viewModel.state.value.asked.kept)
    }

    @Test
    fun `a chat that is deleted while it is answered does not come back`() {
        show()
        engine.isPaced = true
        engine.answers += "one two three"
        viewModel.send("a secret")
        rule.waitFor { texts("answer") == listOf("one ") && app.services.conversations.all().size == 1 }
        viewModel.set(ChatSettings(temperature = 1f)) // which is saved a moment later
        viewModel.delete(viewModel.state.value.conversation)
        rule.waitFor { turns.isEmpty() }
        engine.isPaced = false
        ask("something else", "yes") // what is written is written in order
        rule.waitFor { app.services.conversations.all().values.any { it.turns.lastOrNull()?.text == "yes" } }
        assertEquals(listOf("something else"), app.services.conversations.all().values.map { it.title })
        assertEquals(listOf("something else"), viewModel.state.value.history.map { it.title })
    }

    @Test
    fun `what stands side by side is parted as the language does`() {
        val stats = AnswerStats(1, 2, 3.0, 4.0, End.MODEL.name)
        val turn = SavedMessage(Role.ASSISTANT, "مرحبا", stats, adapter = "b")
        showScreen("ar-ldrtl-w411dp-h891dp") { Answer(turn, isComing = false, onRegenerate = null, onGoOn = null) }
        val adapter = app.getString(R.string.chat_adapter, "b")
        rule.onNodeWithTag("stats").assertTextContains("$adapter، ", substring = true)
        val state = ChatState(conversation = newConversation().copy(settings = ChatSettings(adapter = "b")))
        showScreen("ar-ldrtl-w411dp-h891dp") { ChatContent(state, ChatActions(), onHistory = {}) }
        rule.onNodeWithTag("chat-subtitle", useUnmergedTree = true)
            .assertTextEquals("$adapter، ${app.getString(R.string.chat_offline)}")
    }

    @Test
    fun `a chat is shared and saved`() {
        val activity = show()
        ask("hello", "Hi!")
        choose(R.string.export_share)
        val chooser = shadowOf(app).nextStartedActivity
        val shared = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent::class.java)
        val document = "# hello\n\n## You\n\nhello\n\n## Model\n\nHi!\n"
        assertEquals(document, shared?.getStringExtra(Intent.EXTRA_TEXT))

        assertEquals(document, saved(activity.get(), R.string.export_markdown, "hello.md"))
        val json = saved(activity.get(), R.string.export_json, "hello.json")
        assertEquals(turns, Json.decodeFromString(Conversation.serializer(), json).turns)
    }

    private fun saved(activity: Activity, choice: Int, name: String): String {
        val place = Uri.parse("content://somewhere/$name")
        val written = ByteArrayOutputStream()
        shadowOf(app.contentResolver).registerOutputStream(place, written)
        choose(choice)
        val asked = shadowOf(activity).nextStartedActivityForResult.intent
        assertEquals(Intent.ACTION_CREATE_DOCUMENT, asked.action)
        assertEquals(name, asked.getStringExtra(Intent.EXTRA_TITLE))
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, Intent().setData(place))
        rule.waitFor { written.size() > 0 }
        return written.toString()
    }

    @Test
    fun `a place that cannot be written is a sentence`() {
        show()
        ask("hello")
        viewModel.export(app.contentResolver, Uri.parse("content://nobody/a.md"), "text")
        rule.waitFor { viewModel.state.value.problem is Problem.Storage }
        rule.onNodeWithTag("problem").assertIsDisplayed()
    }

    @Test
    fun `earlier chats are found by what was said in them`() {
        show()
        ask("first", "Le café est là.")
        button(R.string.chat_new).performClick()
        rule.waitFor { turns.isEmpty() }
        ask("second")
        button(R.string.chat_history).performClick()
        rule.waitFor { texts("conversation").size == 2 } // it is saved meanwhile
        rule.onNodeWithTag("history-search").performTextReplacement("CAFE")
        rule.waitFor { texts("conversation").size == 1 }
        rule.onAllNodesWithTag("conversation").onLast().assertTextContains("first")
        rule.onNodeWithTag("history-search").performTextReplacement("tea")
        rule.waitFor { texts("conversation").isEmpty() }
        rule.onNodeWithTag("nothing-found").assertIsDisplayed()
        button(R.string.history_search_clear).performClick()
        rule.waitFor { texts("conversation").size == 2 }
    }
}
