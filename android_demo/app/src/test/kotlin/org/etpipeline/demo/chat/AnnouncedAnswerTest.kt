package org.etpipeline.demo.chat

import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveableStateHolder
import androidx.compose.runtime.setValue
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onNodeWithTag
import org.etpipeline.core.Role
import org.etpipeline.core.SavedMessage
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.showScreen
import org.junit.Assert.assertEquals
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** What a screen reader says while an answer comes. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class AnnouncedAnswerTest {
    @get:Rule val rule = createEmptyComposeRule()

    private var state by mutableStateOf(ChatState())
    private var isShown by mutableStateOf(true) // or another place of the app
    private val said = mutableListOf<String>()

    @Before
    fun show() {
        rule.mainClock.autoAdvance = false
        showScreen {
            val kept = rememberSaveableStateHolder()
            if (isShown) kept.SaveableStateProvider("chat") { AnnouncedAnswer(state) }
        }
        pass(0)
    }

    /** Lets time go by, and hears what is said in it. */
    private fun pass(seconds: Int) = repeat(10 * seconds + 1) {
        rule.mainClock.advanceTimeBy(100)
        val region = rule.onNodeWithTag("announced").fetchSemanticsNode().config
        assertEquals(LiveRegionMode.Polite, region[SemanticsProperties.LiveRegion])
        val now = region.getOrElse(SemanticsProperties.ContentDescription) { listOf("") }.single()
        if (now != said.lastOrNull()) said += now
    }

    private fun answer(text: String, phase: ChatState.Phase = ChatState.Phase.WRITING) {
        val turns = listOf(SavedMessage(Role.USER, "Where?"), SavedMessage(Role.ASSISTANT, text))
        state = state.copy(conversation = state.conversation.copy(turns = turns), phase = phase)
    }

    @Test
    fun `it says whole sentences, every two seconds, and the rest at the end`() {
        answer("In")
        pass(seconds = 1)
        answer("In **Rome**. On")
        pass(seconds = 2)
        answer("In **Rome**. On the Tiber. In Ita")
        pass(seconds = 2)
        answer("In **Rome**. On the Tiber. In Italy.", ChatState.Phase.IDLE)
        pass(seconds = 1)
        assertEquals(listOf("", "In Rome.", "On the Tiber.", "In Italy."), said)
        pass(seconds = 10)
        assertEquals("", said.last())
    }

    @Test
    fun `a fast answer is said at once, whole`() {
        answer("In Rome. On the")
        pass(seconds = 1)
        answer("In Rome. On the Tiber.", ChatState.Phase.IDLE)
        pass(seconds = 1)
        assertEquals(listOf("", "In Rome. On the Tiber."), said)
    }

    @Test
    fun `an answer that goes on is said from where it was cut`() {
        answer("In Rome. On", ChatState.Phase.IDLE)
        pass(seconds = 3)
        state = state.copy(asked = Asked(at = 1, kept = "In Rome. On".length))
        answer("In Rome. On the Tiber. In")
        pass(seconds = 3)
        answer("In Rome. On the Tiber. In Italy.", ChatState.Phase.IDLE)
        pass(seconds = 1)
        assertEquals(listOf("", "the Tiber.", "In Italy."), said)
    }

    @Test
    fun `who comes back to an answer that comes hears what was not said yet, and of the next one all`() {
        state = state.copy(asked = Asked(at = 1))
        answer("In Rome. On")
        pass(seconds = 3)
        isShown = false
        rule.waitForIdle() // it is known now, and drawn when time goes by
        rule.mainClock.advanceTimeBy(5_000)
        rule.onNodeWithTag("announced").assertDoesNotExist()
        answer("In Rome. On the Tiber. In")
        isShown = true
        rule.waitForIdle()
        rule.mainClock.advanceTimeBy(100)
        pass(seconds = 3)
        answer("In Rome. On the Tiber. In Italy.", ChatState.Phase.IDLE)
        pass(seconds = 1)
        assertEquals(listOf("", "In Rome.", "", "On the Tiber.", "In Italy."), said)
        state = state.copy(asked = Asked(at = 2))
        answer("In Spain. No")
        pass(seconds = 3)
        assertEquals("In Spain.", said.last())
    }

    @Test
    fun `thoughts are not said, nor an answer of before`() {
        answer("In Rome.", ChatState.Phase.IDLE)
        pass(seconds = 3)
        answer("<think>Let me see. Where. </think>In Rome. And")
        pass(seconds = 3)
        assertEquals(listOf("", "In Rome."), said)
    }
}
