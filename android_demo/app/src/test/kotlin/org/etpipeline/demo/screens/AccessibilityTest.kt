package org.etpipeline.demo.screens

import androidx.compose.ui.semantics.SemanticsNode
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.hasClickAction
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import org.etpipeline.demo.AppScaffold
import org.etpipeline.demo.PHONE
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.showScreen
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** What TalkBack and unsteady fingers need, on every screen. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class AccessibilityTest {
    @get:Rule val rule = createEmptyComposeRule()

    @Test
    fun `whatever can be tapped has a name`() {
        val nameless = onEveryScreen { node -> node.name().isBlank() }
        assertEquals(emptyList<String>(), nameless)
    }

    @Test
    fun `whatever can be tapped is at least 48 dp wide and high`() {
        val least = 48 * 2 - 1 // pixels at xhdpi, but for rounding
        val small = onEveryScreen { node ->
            // What the edge of a scrolled list cuts off is larger than what is seen of it.
            val isWhole = node.boundsInRoot.height >= node.size.height && node.boundsInRoot.width >= node.size.width
            isWhole && node.touchBoundsInRoot.run { width < least || height < least }
        }
        assertEquals(emptyList<String>(), small)
    }

    private fun onEveryScreen(isWrong: (SemanticsNode) -> Boolean): List<String> {
        var seen = 0
        val found = sampleScreens.flatMap { (name, screen) ->
            val activity = showScreen(PHONE) { AppScaffold(screen.place, onPlace = {}) { screen.content() } }
            val nodes = rule.onAllNodes(hasClickAction()).fetchSemanticsNodes()
            seen += nodes.size
            nodes.filter(isWrong).map { "$name: ${it.name()} ${it.boundsInRoot}" }.also { activity.close() }
        }
        assertTrue("$seen", seen > 100)
        return found
    }

    private fun SemanticsNode.name(): String {
        val text = config.getOrElse(SemanticsProperties.Text) { emptyList() }.joinToString(" ")
        val description = config.getOrElse(SemanticsProperties.ContentDescription) { emptyList() }.joinToString(" ")
        return (text + description).trim()
    }
}
