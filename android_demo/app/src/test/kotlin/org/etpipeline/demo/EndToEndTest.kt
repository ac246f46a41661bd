package org.etpipeline.demo

import android.content.Intent
import androidx.compose.ui.semantics.SemanticsProperties
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.compose.ui.test.performTextInput
import androidx.compose.ui.test.performTextReplacement
import androidx.test.core.app.ActivityScenario
import androidx.test.core.app.ApplicationProvider
import java.io.File
import org.etpipeline.core.Manifest
import org.etpipeline.core.readManifest
import org.etpipeline.demo.engine.ModelHolder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** The real activity, the real model, Android's own library: what somebody sees who has just installed the app. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = RealEngineApp::class, qualifiers = PHONE)
class EndToEndTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app: RealEngineApp = ApplicationProvider.getApplicationContext()

    private val manifest = readManifest(File(bundleFolder, Manifest.FILE_NAME).readText())

    private fun texts(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes()
        .map { node -> node.config[SemanticsProperties.Text].joinToString("") { it.text } }

    private fun waitForModel() = rule.waitFor { app.services.startup.state.value.isDone }

    private fun ask(text: String, answers: Int): String {
        rule.onNodeWithTag("chat-input").performTextInput(text)
        rule.onNodeWithTag("send").performClick()
        rule.waitFor { texts("stats").size == answers }
        return texts("answer").last()
    }

    @Test
    fun `a chat, a smart reply and a translation`() {
        ActivityScenario.launch<MainActivity>(Intent(app, MainActivity::class.java)).use {
            waitForModel()
            assertEquals("The capital of Italy is Rome.", ask("What is the capital of Italy?", answers = 1))
            val second = ask("And of Spain?", answers = 2)
            assertTrue(second, "Madrid" in second)
            assertTrue("/libexecutorch" in File("/proc/self/maps").readText())
            assertTrue(app.services.models.state.value is ModelHolder.State.Ready)

            rule.onNodeWithText(app.getString(R.string.place_tasks)).performClick()
            rule.onNodeWithTag("open-task-smart_reply").performScrollTo().performClick()
            rule.onNodeWithTag("task-text").performTextInput(input("smart_reply"))
            rule.onNodeWithTag("run").performScrollTo().performClick()
            rule.waitFor { rule.onAllNodesWithTag("reply").fetchSemanticsNodes().size == 3 }
            assertEquals(sample("smart_reply").answer.lines(), texts("reply"))

            it.onActivity { activity -> activity.onBackPressedDispatcher.onBackPressed() }
            rule.onNodeWithTag("open-task-translate").performScrollTo().performClick()
            rule.onNodeWithTag("task-text").performTextReplacement(input("translate"))
            rule.onNodeWithTag("run").performScrollTo().performClick()
            rule.waitFor { texts("answer") == listOf("Le train arrive à huit heures.") }
        }
    }

    /** What the pipeline asked when it made the bundle, and what its runtime answered. */
    private fun sample(task: String) = manifest.samples.first { it.task == task }

    private fun input(task: String) = sample(task).prompt.substringAfter(": ")

    @Test
    fun `text that another app shares is translated`() {
        val share = Intent(app, MainActivity::class.java).setAction(Intent.ACTION_SEND).setType("text/plain")
            .putExtra(Intent.EXTRA_TEXT, "The train arrives at eight o'clock.")
        ActivityScenario.launch<MainActivity>(share).use {
            waitForModel()
            rule.waitFor { rule.onAllNodesWithTag("open-task-translate").fetchSemanticsNodes().isNotEmpty() }
            rule.onNodeWithTag("open-task-translate").performScrollTo().performClick()
            rule.onNodeWithTag("run").performScrollTo().performClick()
            rule.waitFor { texts("answer") == listOf("Le train arrive à huit heures.") }
        }
    }
}
