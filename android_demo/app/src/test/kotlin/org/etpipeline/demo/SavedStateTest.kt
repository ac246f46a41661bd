package org.etpipeline.demo

import android.os.Bundle
import android.os.Parcel
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.lifecycle.SavedStateHandle
import java.io.InputStream
import java.util.concurrent.CountDownLatch
import kotlinx.coroutines.flow.emptyFlow
import org.etpipeline.core.BenchmarkPlan
import org.etpipeline.core.BundleSource
import org.etpipeline.core.Problem
import org.etpipeline.demo.benchmark.BenchmarkViewModel
import org.etpipeline.demo.chat.ChatViewModel
import org.etpipeline.demo.chat.Draft
import org.etpipeline.demo.models.ModelsViewModel
import org.etpipeline.demo.tasks.TaskViewModel
import org.etpipeline.demo.tasks.TasksScreen
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowLooper

/** What the system keeps of a hidden app, which may go on and be ended later: neither too much nor out of date. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class SavedStateTest {
    @get:Rule val rule = createEmptyComposeRule()

    private val app get() = testApp
    private val handle = SavedStateHandle()

    @Before
    fun installModel() {
        app.startEmpty()
        app.install()
    }

    private fun saved(): Bundle = handle.savedStateProvider().saveState()
    private fun exists(tag: String) = rule.onAllNodesWithTag(tag).fetchSemanticsNodes().isNotEmpty()

    /** Where is no screen: the rule would wait for one. */
    private fun waitHidden(condition: () -> Boolean) {
        val end = System.nanoTime() + 30_000_000_000
        while (!condition()) {
            assertTrue("it takes too long", System.nanoTime() < end)
            ShadowLooper.idleMainLooper()
            Thread.sleep(5)
        }
    }

    private val Bundle.bytes: Int
        get() {
            val written = Parcel.obtain()
            written.writeBundle(this)
            return written.dataSize().also { written.recycle() }
        }

    @Test
    fun `an import that was done after that was not interrupted`() {
        val gate = CountDownLatch(1)
        val models = ModelsViewModel(app.services, handle)
        models.import {
            object : BundleSource {
                override val name = "slow.zip"
                override val totalBytes = 1_000L
                override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) = gate.await()
            }
        }
        waitHidden { models.state.value.importing?.name == "slow.zip" }
        val saved = saved()
        fun next() = ModelsViewModel(app.services, SavedStateHandle.createHandle(saved, null)).state.value.problem
        assertEquals(Problem.Interrupted, next())
        gate.countDown()
        waitHidden { models.state.value.importing == null }
        assertEquals(null, next())
    }

    @Test
    fun `a report that came after that is shown`() {
        val plan = BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1)
        val benchmark = BenchmarkViewModel(app.services, handle)
        app.engine.isPaced = true
        repeat(20) { app.engine.answers += List(17) { "word" }.joinToString(" ") }
        benchmark.change(plan)
        benchmark.start()
        waitHidden { benchmark.state.value.progress != null }
        val saved = saved()
        fun next() = BenchmarkViewModel(app.services, SavedStateHandle.createHandle(saved, null)).state.value
        assertEquals(Problem.Interrupted to null, next().problem to next().report)
        app.engine.step(1_000)
        waitHidden { benchmark.state.value.progress == null }
        val report = checkNotNull(benchmark.state.value.report)
        assertEquals(null to report, next().problem to next().report)
    }

    @Test
    fun `of a long text a part is kept, and all of it while the app lives`() {
        val long = List(17_000) { "word %04d ".format(it % 10_000) }.joinToString("")
        var shared by mutableStateOf<String?>(long)
        val tasks = TaskViewModel(app.services, handle)
        val activity = showScreen { TasksScreen(shared, { shared = null }, {}, {}, tasks = tasks) }
        rule.waitFor { exists("open-task-summarize") }
        rule.onNodeWithTag("open-task-summarize").performScrollTo().performClick()
        app.engine.answers += "Words."
        rule.waitFor { exists("run") }
        rule.onNodeWithTag("run").performScrollTo().performClick()
        rule.waitFor { tasks.state.value.run?.answer == "Words." }
        assertEquals(long, tasks.state.value.run?.input)
        val screen = Bundle()
        activity.pause().stop().saveInstanceState(screen)
        val all = screen.bytes + saved().bytes
        assertTrue("$all bytes of the megabyte that there is for them", all < 200_000)
        val next = TaskViewModel(app.services, SavedStateHandle.createHandle(saved(), null))
        assertEquals(long.take(20_000), next.draft)
        assertEquals(long.take(20_000), next.state.value.run?.input)
    }

    @Test
    fun `the same of a text that was shared, one to ask in the chat, and one that is typed there`() {
        val long = "word ".repeat(100_000)
        val arriving = Arriving(handle).apply { shared = long; asked = long }
        val chat = ChatViewModel(app.services, handle).apply { draft = Draft(long, replacing = 2) }
        val screen = Bundle()
        val activity = showScreen { App(arriving, emptyFlow()) }
        activity.pause().stop().saveInstanceState(screen)
        val all = screen.bytes + saved().bytes
        assertTrue("$all bytes of the megabyte that there is for them", all < 200_000)
        assertEquals(long to Draft(long, 2), arriving.shared to chat.draft)
        val next = SavedStateHandle.createHandle(saved(), null)
        Arriving(next).run { assertEquals(long.take(20_000) to long.take(20_000), shared to asked) }
        assertEquals(Draft(long.take(20_000), 2), ChatViewModel(app.services, next).draft)
    }
}
