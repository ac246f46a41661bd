package org.etpipeline.demo.chat

import android.app.Activity
import android.content.Intent
import android.net.Uri
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsSelected
import androidx.compose.ui.test.assertTextContains
import androidx.compose.ui.test.assertTextEquals
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.test.core.app.ApplicationProvider
import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Problem
import org.etpipeline.core.toMarkdown
import org.etpipeline.demo.R
import org.etpipeline.demo.RealEngineApp
import org.etpipeline.demo.models.ModelsScreen
import org.etpipeline.demo.models.ModelsViewModel
import org.etpipeline.demo.models.PickedFile
import org.etpipeline.demo.models.adapterBundle
import org.etpipeline.demo.models.adaptersFolder
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.waitFor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Adapters from the model's card into a running chat, on Android's own library. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = RealEngineApp::class, qualifiers = "w411dp-h891dp-420dpi")
class ChatAdaptersTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: RealEngineApp = ApplicationProvider.getApplicationContext()
    private val chat by lazy { ChatViewModel(app.services) }
    private val models by lazy { ModelsViewModel(app.services) }
    private val turns get() = chat.state.value.turns
    private val answers = Json.parseToJsonElement(File(adaptersFolder, "answers.json").readText()).jsonObject

    @Before
    fun install() {
        app.startEmpty()
        app.services.store.import(adapterBundle.source())
        app.services.models.refresh()
    }

    /** What Python's runtime says with the adapter, as a chat shows it. */
    private fun expected(adapter: String, question: Int): String {
        val answer = answers.getValue(adapter).jsonArray[question].jsonObject.getValue("answer").jsonPrimitive.content
        return answer.replace("<|end|>", "").replace("<|begin|>", "")
    }

    private fun ask(question: Int): String {
        val prompt = answers.getValue("model").jsonArray[question].jsonObject.getValue("prompt").jsonPrimitive.content
        val before = turns.size
        chat.send(prompt.substringAfter("<|user|>").substringBefore("<|end|>"))
        rule.waitFor { turns.size == before + 2 && chat.state.value.phase == ChatState.Phase.IDLE }
        return turns.last().text
    }

    private fun add(name: String) {
        rule.waitFor { models.state.value.models?.size == 1 }
        val content = File(adaptersFolder, "a.ptd").readBytes()
        models.addAdapter(models.state.value.models!!.single().bundle.id) { picked(name, content) }
    }

    private fun picked(name: String, content: ByteArray) = PickedFile(name, null) { content.inputStream() }

    private fun set(adapter: String?) = chat.set(ChatSettings(adapter = adapter, maxNewTokens = 40))

    @Test
    fun `the card lists them, takes one more and gives it back`() {
        showScreen { ModelsScreen(viewModel = models) }
        rule.waitFor { models.state.value.models?.singleOrNull()?.adapters?.size == 1 }
        rule.onNodeWithTag("adapter-b").performScrollTo().assertTextContains("b:", substring = true)
            .assertTextContains("Words at random").assertTextContains(app.getString(R.string.models_adapter_top1, 97.5))
        rule.onNodeWithText(app.getString(R.string.models_temperature_only)).performScrollTo().assertIsDisplayed()

        add("mine.ptd")
        rule.waitFor { models.state.value.models!!.single().adapters.size == 2 }
        rule.onNodeWithTag("adapter-mine").performScrollTo()
            .assertTextContains(app.getString(R.string.models_adapter_unmeasured))
        val remove = app.getString(R.string.models_adapter_remove, "mine")
        rule.onNodeWithContentDescription(remove).performScrollTo().performClick()
        rule.waitFor { models.state.value.models!!.single().adapters.size == 1 }
    }

    @Test
    fun `a file of another model is one sentence`() {
        showScreen { ModelsScreen(viewModel = models) }
        rule.waitFor { models.state.value.models?.size == 1 }
        val item = models.state.value.models!!.single().bundle.id
        models.addAdapter(item) { picked("x.gguf", ByteArray(100)) }
        rule.waitFor { models.state.value.problem == Problem.DamagedAdapter("x.gguf") }
        rule.onNodeWithTag("problem").assertIsDisplayed()
        models.addAdapter(item) { throw IllegalStateException("the provider is broken") }
        rule.waitFor { models.state.value.problem == Problem.Storage("the provider is broken") }
    }

    @Test
    fun `the system's picker gives the file`() {
        val activity = showScreen { ModelsScreen(viewModel = models) }
        rule.waitFor { models.state.value.models?.singleOrNull()?.adapters?.size == 1 }
        rule.onNodeWithText(app.getString(R.string.models_adapter_add)).performScrollTo().performClick()
        val place = Uri.parse("content://somewhere/a.ptd")
        shadowOf(app.contentResolver).registerInputStream(place, File(adaptersFolder, "a.ptd").inputStream())
        val asked = shadowOf(activity.get()).nextStartedActivityForResult.intent
        shadowOf(activity.get()).receiveResult(asked, Activity.RESULT_OK, Intent().setData(place))
        rule.waitFor { models.state.value.models!!.single().adapters.map { it.name } == listOf("b", "a") }
    }

    @Test
    fun `each chat has its own, and a change in a running chat feeds it anew`() {
        add("a.ptd")
        rule.waitFor { chat.state.value.adapters.map { it.name } == listOf("b", "a") }
        set(null)
        assertEquals(expected("model", 0), ask(0))
        val first = chat.state.value.conversation
        chat.startNew()
        rule.waitFor { turns.isEmpty() }
        set("b")
        assertEquals(expected("b", 0), ask(0))
        chat.startNew()
        rule.waitFor { turns.isEmpty() }
        set("a")
        assertEquals(expected("a", 1), ask(1))
        assertEquals("a", turns.last().adapter)

        chat.open(first)
        rule.waitFor { chat.state.value.conversation.id == first.id }
        set("b")
        val changed = ask(1)
        assertEquals(listOf(null, "b"), turns.filter { it.stats != null }.map { it.adapter })
        assertTrue("all of it was fed with the other one", turns.last().stats!!.promptTokens > 20)
        assertNotEquals(expected("model", 1), changed)
        assertTrue("## m (b)" in chat.state.value.conversation.toMarkdown("u", "m"))
    }

    @Test
    fun `it is chosen in the settings and seen above the chat and below its answers`() {
        showScreen { ChatScreen("", {}, onOpenModels = {}, viewModel = chat) }
        rule.waitFor { chat.state.value.adapters.size == 1 }
        rule.onNodeWithTag("chat-menu").performClick()
        rule.onNodeWithText(app.getString(R.string.settings_title)).performClick()
        rule.onNodeWithText(app.getString(R.string.settings_temperature_only)).assertExists()
        rule.onNodeWithTag("no-adapter").performScrollTo().assertIsSelected()
        rule.onNodeWithTag("choose-b").performScrollTo().performClick().assertIsSelected()
        rule.onNodeWithText("Words at random").assertExists()
        val named = app.getString(R.string.chat_adapter, "b")
        rule.onNodeWithTag("chat-subtitle", useUnmergedTree = true)
            .assertTextEquals(named + " · " + app.getString(R.string.chat_offline))
        ask(0)
        rule.onNodeWithTag("stats").assertTextContains(named, substring = true)
        rule.waitFor { app.services.conversations.all().values.single().settings.adapter == "b" }
    }

    @Test
    fun `one that the model does not have is a sentence, and the chat goes on without it`() {
        showScreen { ChatScreen("", {}, onOpenModels = {}, viewModel = chat) }
        rule.waitFor { chat.state.value.adapters.size == 1 }
        set("gone")
        chat.send("Hello")
        rule.waitFor { chat.state.value.problem == Problem.NoAdapter("gone", "adaptable") }
        rule.onNodeWithTag("problem").assertIsDisplayed()
        set(null)
        rule.waitFor { chat.state.value.phase == ChatState.Phase.IDLE }
        chat.regenerate()
        rule.waitFor { turns.size == 2 && chat.state.value.phase == ChatState.Phase.IDLE }
    }
}
