package org.etpipeline.demo.screens

import androidx.compose.ui.semantics.SemanticsActions
import androidx.compose.ui.semantics.SemanticsNode
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.semantics.getOrNull
import androidx.compose.ui.test.SemanticsMatcher
import androidx.compose.ui.test.hasClickAction
import androidx.compose.ui.test.hasScrollAction
import androidx.compose.ui.test.hasSetTextAction
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import org.etpipeline.demo.PHONE
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.testApp
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** As small as phones are. */
const val SMALL = "w320dp-h480dp-port-notnight-xhdpi"

/** What TalkBack and unsteady fingers need, on every screen. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class AccessibilityTest {
    @get:Rule val rule = createEmptyComposeRule()

    @Test
    fun `whatever can be tapped, typed in or dragged has a name`() {
        val nameless = onEveryScreen(PHONE) { node -> node.name().isBlank() }
        assertEquals(emptyList<String>(), nameless)
    }

    @Test
    fun `whatever can be tapped is at least 48 dp wide and high`() {
        assertEquals(emptyList<String>(), onEveryScreen(PHONE, ::isSmall))
    }

    @Test
    fun `also on a small phone in the largest letters, and from right to left`() {
        RuntimeEnvironment.setFontScale(2f)
        assertEquals(emptyList<String>(), onEveryScreen(SMALL) { it.name().isBlank() || isSmall(it) })
        assertEquals(emptyList<String>(), onEveryScreen("ar-ldrtl-$SMALL") { it.name().isBlank() || isSmall(it) })
    }

    @Test
    fun `what is not on the screen can be scrolled to`() {
        RuntimeEnvironment.setFontScale(2f)
        val lost = onEveryScreen(SMALL) { node ->
            // Cut off by what holds it, and nothing around it scrolls.
            val isCut = node.boundsInRoot.height < node.size.height - 1 || node.boundsInRoot.width < node.size.width - 1
            isCut && generateSequence(node.parent) { it.parent }.none { hasScrollAction().matches(it) }
        }
        assertEquals(emptyList<String>(), lost)
    }

    @Test
    fun `each screen has a heading to jump to`() {
        val isHeading = SemanticsMatcher.keyIsDefined(SemanticsProperties.Heading)
        val without = sampleScreens.keys.filter { name ->
            on(name, PHONE) { rule.onAllNodes(isHeading).fetchSemanticsNodes().isEmpty() }
        }
        assertEquals(emptyList<String>(), without)
    }

    @Test
    fun `what can be done with a message is in the reader's menu, too`() {
        val (question, answers) = on("chat-markdown", PHONE) {
            val question = rule.onAllNodesWithTag("question").fetchSemanticsNodes().single()
            val tags = listOf("answer", "heading", "item")
            val pieces = tags.flatMap { rule.onAllNodesWithTag(it).fetchSemanticsNodes() }
            question.menu() to pieces.map { it.menu() }
        }
        fun strings(vararg ids: Int) = ids.map { testApp.getString(it) }
        assertEquals(strings(R.string.chat_edit), question)
        assertTrue("$answers", answers.size > 4)
        val all = strings(R.string.chat_copy, R.string.chat_share, R.string.chat_regenerate, R.string.chat_go_on)
        assertEquals(setOf(all), answers.toSet())
        val coming = on("chat-writing", PHONE) { rule.onAllNodesWithTag("answer").fetchSemanticsNodes().last().menu() }
        assertEquals(emptyList<String>(), coming)
    }

    private fun SemanticsNode.menu() = config.getOrElse(SemanticsActions.CustomActions) { emptyList() }.map { it.label }

    private fun isSmall(node: SemanticsNode): Boolean {
        if (!hasClickAction().matches(node)) return false // Material keeps 48 dp for a slider of 44, and hears them all
        val least = 48 * 2 - 1 // pixels at xhdpi, but for rounding
        // What the edge of a scrolled list cuts off is larger than what is seen of it.
        val isWhole = node.boundsInRoot.height >= node.size.height && node.boundsInRoot.width >= node.size.width
        return isWhole && node.touchBoundsInRoot.run { width < least || height < least }
    }

    private fun onEveryScreen(device: String, isWrong: (SemanticsNode) -> Boolean): List<String> {
        var seen = 0
        val isDragged = SemanticsMatcher.keyIsDefined(SemanticsActions.SetProgress)
        val isUsed = hasClickAction() or hasSetTextAction() or isDragged
        val found = sampleScreens.keys.flatMap { name ->
            on(name, device) {
                val nodes = rule.onAllNodes(isUsed).fetchSemanticsNodes()
                seen += nodes.size
                nodes.filter(isWrong).map { "$name: ${it.name()} ${it.boundsInRoot}" }
            }
        }
        assertTrue("$seen", seen > 100)
        return found
    }

    private fun <T> on(name: String, device: String, look: () -> T): T {
        val activity = showScreen(device) { sampleScreens.getValue(name).Content() }
        return look().also { activity.close() }
    }

    private fun SemanticsNode.name(): String {
        val text = config.getOrElse(SemanticsProperties.Text) { emptyList() }.joinToString(" ")
        val description = config.getOrElse(SemanticsProperties.ContentDescription) { emptyList() }.joinToString(" ")
        val editable = config.getOrNull(SemanticsProperties.EditableText)?.text.orEmpty()
        return (text + description + editable).trim()
    }
}
