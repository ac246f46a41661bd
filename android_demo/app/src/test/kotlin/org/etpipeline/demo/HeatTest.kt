package org.etpipeline.demo

import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import org.junit.Assert.assertEquals
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** A phone that slows itself down says so, wherever the user is. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class HeatTest {
    @get:Rule val rule = createEmptyComposeRule()

    private fun isShown() = rule.onAllNodesWithTag("hot").fetchSemanticsNodes().isNotEmpty()

    @Test
    fun `from severe on it is said, and no longer once the phone is cool`() = check(PHONE)

    @Test
    fun `also on a tablet`() = check(TABLET)

    private fun check(device: String) {
        RuntimeEnvironment.setQualifiers(device)
        Robolectric.buildActivity(MainActivity::class.java).setup().use {
            val all = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown", null)
            val shown = all.associateWith {
                testApp.phone.heat.value = it
                rule.waitForIdle()
                isShown()
            }
            assertEquals(listOf("severe", "critical", "emergency", "shutdown"), shown.filterValues { it }.keys.toList())
            testApp.phone.heat.value = "severe"
            rule.waitForIdle()
            rule.onNodeWithText(testApp.getString(R.string.phone_hot)).assertIsDisplayed()
            rule.onNodeWithTag("chat-input").assertIsDisplayed()
        }
    }
}
