package org.etpipeline.demo.benchmark

import android.app.Activity
import android.content.ContentProvider
import android.content.ContentValues
import android.content.Intent
import android.database.Cursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import androidx.activity.ComponentActivity
import androidx.compose.ui.test.assertContentDescriptionEquals
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsEnabled
import androidx.compose.ui.test.assertIsNotEnabled
import androidx.compose.ui.test.assertIsSelected
import androidx.compose.ui.test.assertTextEquals
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.test.core.app.ApplicationProvider
import java.io.File
import java.io.FileNotFoundException
import org.etpipeline.core.BatteryReading
import org.etpipeline.core.BenchmarkPlan
import org.etpipeline.core.Generation
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.StoredBundle
import org.etpipeline.demo.FakeEngine
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.install
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.text
import org.etpipeline.demo.waitFor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/**
 * With a token for each word. The first engine writes 100 tokens per second, the second 200, and so on. Every generation
 * takes 1 mAh from the battery.
 */
class BenchmarkApp : TestApp() {
    override val newEngine: ((StoredBundle, Program) -> LlmEngine) get() = { _, _ -> Measurable(engine) }

    private inner class Measurable(private val inner: FakeEngine) : LlmEngine by inner {
        override suspend fun generate(prompt: String, request: GenerationRequest, onPiece: (String) -> Boolean): Generation {
            inner.answers += List(request.maxNewTokens) { "word" }.joinToString(" ")
            val generation = inner.generate(prompt, request, onPiece)
            phone.battery = phone.battery?.run { copy(chargeMicroAh = chargeMicroAh - 1000) }
            return generation.copy(
                promptTokens = prompt.split(' ').size,
                decodeMs = (generation.tokens - 1) * 10.0 / inner.loads,
            )
        }
    }
}

@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = BenchmarkApp::class)
class BenchmarkScreenTest {
    @get:Rule val rule = createEmptyComposeRule()

    @get:Rule val disk = TemporaryFolder()

    private val app: BenchmarkApp = ApplicationProvider.getApplicationContext()
    private val engine get() = app.engine
    private val viewModel by lazy { BenchmarkViewModel(app.services) }
    private val state get() = viewModel.state.value
    private val start get() = rule.onNodeWithTag("benchmark-start")
    private var openedModels = 0

    @Before
    fun installModel() {
        app.startEmpty()
        app.install()
    }

    private fun show() = showScreen { BenchmarkScreen(onOpenModels = { openedModels++ }, viewModel = viewModel) }

    private fun string(id: Int, vararg arguments: Any) = app.getString(id, *arguments)
    private fun text(id: Int, vararg arguments: Any) = rule.onNodeWithText(string(id, *arguments))
    private fun count(text: String) = rule.onAllNodesWithText(text).fetchSemanticsNodes().size
    private fun line(id: Int, vararg values: String) = text(id).assertTextEquals(string(id), *values)

    private fun measure(plan: BenchmarkPlan) {
        viewModel.change(plan)
        rule.waitForIdle()
        start.performScrollTo().performClick()
        rule.waitFor { state.report != null && state.progress == null }
    }

    private fun waitForProgress(phase: Int) {
        rule.waitFor { count(string(R.string.benchmark_round, 1, 3) + ": " + string(phase)) == 1 }
    }

    @Test
    fun `without a model it says where to get one`() {
        app.startEmpty()
        show()
        text(R.string.benchmark_no_model_title).assertIsDisplayed()
        start.assertDoesNotExist()
        text(R.string.chat_open_models).performClick()
        assertEquals(1, openedModels)
    }

    @Test
    fun `a choice changes the plan`() {
        show()
        rule.onAllNodesWithText("32")[0].performClick()
        assertEquals(BenchmarkPlan(promptTokens = 32), state.plan)
        rule.onAllNodesWithText("16")[1].performClick()
        assertEquals(BenchmarkPlan(promptTokens = 32, decodeTokens = 16), state.plan)
        rule.onNodeWithText("10").performClick()
        assertEquals(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 10), state.plan)
        rule.onAllNodesWithText("32")[0].assertIsSelected()
        rule.onAllNodesWithText("16")[1].assertIsSelected()
        rule.onNodeWithText("10").assertIsSelected()
    }

    @Test
    fun `no length above half of the context is offered`() {
        show()
        assertEquals(listOf(2, 2, 0, 0), listOf("16", "256", "512", "1,024").map(::count))
        app.startEmpty()
        val short = TestBundle.whole.edited("programs.0.max_context", "100").edited("programs.0.prefill_chunk", "50")
        app.services.store.import(short.source())
        app.services.models.refresh()
        rule.waitFor { state.bundle?.manifest?.programs?.single()?.maxContext == 100 }
        assertEquals(listOf(2, 2, 0, 0), listOf("16", "32", "64", "256").map(::count))
    }

    @Test
    fun `it says which round and what it does, and nothing can be chosen meanwhile`() {
        engine.isPaced = true
        show()
        viewModel.change(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 3))
        start.performScrollTo().performClick()
        waitForProgress(R.string.benchmark_phase_warm_up)
        start.assertDoesNotExist()
        rule.onAllNodesWithText("64")[0].assertIsNotEnabled()
        engine.step()
        waitForProgress(R.string.benchmark_phase_measure)
        engine.isPaced = false
        engine.step(100)
        rule.waitFor { state.report != null }
        start.assertExists()
        rule.onAllNodesWithText("64")[0].assertIsEnabled()
        rule.onNodeWithTag("benchmark-progress").assertDoesNotExist()
    }

    @Test
    fun `the report has the median, the 90th percentile and a chart of the rounds`() {
        show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 3))
        rule.onNodeWithTag("benchmark-report").performScrollTo()
        rule.onNodeWithText(app.phone.name).assertExists()
        rule.onNodeWithText(string(R.string.benchmark_lengths, 32, 16), substring = true).assertExists()
        line(R.string.benchmark_decode, "200", "280") // of 100, 200 and 300
        line(R.string.benchmark_prefill, "2,667", "2,667") // 32 words in 12 ms
        line(R.string.benchmark_ttft, "12", "12")
        line(R.string.benchmark_load, "7", "7")
        line(R.string.benchmark_thermal, "cool → cool")
        line(R.string.benchmark_memory, "50 MB")
        val chart = rule.onNodeWithTag("benchmark-chart").performScrollTo().assertIsDisplayed()
        chart.assertContentDescriptionEquals(string(R.string.benchmark_chart, "100, 200, 300"))
    }

    @Test
    fun `cancel ends it, and it can begin again`() {
        engine.isPaced = true
        show()
        viewModel.change(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 3))
        start.performScrollTo().performClick()
        waitForProgress(R.string.benchmark_phase_warm_up)
        text(R.string.cancel).performScrollTo().performClick()
        rule.waitFor { state.progress == null }
        start.assertExists()
        assertTrue(engine.isClosed)
        assertNull(state.report)
        assertNull(state.problem)
        engine.isPaced = false
        measure(state.plan)
        assertEquals(3, state.report?.rounds?.size)
    }

    @Test
    fun `a problem of the engine is a sentence, and it can be tried again`() {
        val problem = Problem.EngineFailed("no such operator")
        engine.problem = problem
        show()
        viewModel.change(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        start.performScrollTo().performClick()
        rule.waitFor { count(problem.text(app.resources)) == 1 }
        assertTrue(engine.isClosed)
        engine.problem = null
        text(R.string.try_again).performScrollTo().performClick()
        rule.waitFor { state.report != null }
        assertEquals(0, count(problem.text(app.resources)))
    }

    @Test
    fun `a model that does not fit into the memory is a sentence, and nothing is loaded`() {
        app.phone.totalRam = 500_000_000
        show()
        start.performScrollTo().performClick()
        rule.waitFor { state.problem is Problem.NotEnoughMemory }
        rule.onNodeWithText(state.problem!!.text(app.resources)).assertExists()
        assertEquals(0, engine.loads)
        text(R.string.dismiss).performScrollTo().performClick()
        assertNull(state.problem)
    }

    @Test
    fun `what the battery lost is reported for 1,000 tokens`() {
        app.phone.battery = BatteryReading(3_000_000, 4_000, plugged = false)
        show()
        measure(LONG)
        // In each round 2 mAh and 66 tokens, and 1 of each for the search of the prompt.
        line(R.string.benchmark_battery, string(R.string.benchmark_mah, "33.2"))
        assertEquals(11_000.0 / 331, state.report!!.batteryMahPer1000Tokens!!, 1e-9)
    }

    @Test
    fun `what is too little for a figure of the battery has none, and says what would be enough`() {
        app.phone.battery = BatteryReading(3_000_000, 4_000, plugged = false)
        show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        line(R.string.benchmark_battery, string(R.string.benchmark_battery_few))
        assertNull(state.report?.batteryMahPer1000Tokens)
    }

    @Test
    fun `a report of a hot phone says so`() {
        app.phone.heat.value = "severe"
        show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        line(R.string.benchmark_thermal, "hot → hot")
        text(R.string.benchmark_hot).assertExists()
        assertEquals(listOf("severe"), state.report!!.rounds.map { it.thermal })
    }

    @Test
    fun `a phone that is being charged tells nothing about its battery`() {
        app.phone.battery = BatteryReading(3_000_000, 4_000, plugged = true)
        show()
        rule.waitFor { count(string(R.string.benchmark_plugged)) == 1 }
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        line(R.string.benchmark_battery, string(R.string.benchmark_battery_plugged))
        assertNull(state.report?.batteryMahPer1000Tokens)
    }

    @Test
    fun `after unplugging the battery is measured, and it no longer says to unplug`() {
        app.phone.battery = BatteryReading(3_000_000, 4_000, plugged = true)
        show()
        rule.waitFor { count(string(R.string.benchmark_plugged)) == 1 }
        app.phone.battery = BatteryReading(3_000_000, 4_000, plugged = false)
        measure(LONG)
        line(R.string.benchmark_battery, string(R.string.benchmark_mah, "33.2"))
        assertEquals(0, count(string(R.string.benchmark_plugged)))
    }

    @Test
    fun `a phone without a charge counter says so`() {
        show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        line(R.string.benchmark_battery, string(R.string.benchmark_battery_unknown))
        assertEquals(0, count(string(R.string.benchmark_plugged)))
    }

    @Test
    fun `the report is exported to where the user wants it, over what was there`() {
        val file = disk.newFile("report.json").apply { writeText("x".repeat(100_000)) }
        val activity = show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        val asked = export(activity, provide(file))
        assertEquals(Intent.ACTION_CREATE_DOCUMENT, asked.action)
        assertEquals("application/json", asked.type)
        assertEquals("${state.bundle!!.manifest!!.what.name}-benchmark.json", asked.getStringExtra(Intent.EXTRA_TITLE))
        val expected = state.report!!.toJson()
        rule.waitFor { file.readText() == expected }
        assertNull(state.problem)
    }

    @Test
    fun `an export that is given up changes nothing`() {
        val activity = show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        export(activity, null)
        assertNull(state.problem)
        rule.onNodeWithTag("benchmark-report").assertExists()
    }

    @Test
    fun `a place that cannot be written is a sentence, and the report stays`() {
        val activity = show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        export(activity, provide(File(disk.root, "no such folder/report.json")))
        rule.waitFor { state.problem is Problem.Storage }
        rule.onNodeWithText(state.problem!!.text(app.resources)).assertExists()
        text(R.string.try_again).assertDoesNotExist() // it would measure again
        text(R.string.dismiss).performScrollTo().performClick()
        rule.onNodeWithTag("benchmark-report").assertExists()
    }

    @Test
    fun `a place that is taken back is a sentence`() {
        val activity = show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        val uri = provide(disk.newFile("report.json"))
        OneFile.problem = SecurityException("no permission")
        export(activity, uri)
        rule.waitFor { state.problem == Problem.Storage("no permission") }
    }

    @Test
    fun `a report of one model is never shown for another`() {
        val other = app.services.store.import(TestBundle.whole.edited("what.name", "\"other\"").source())
        show()
        measure(BenchmarkPlan(promptTokens = 32, decodeTokens = 16, rounds = 1))
        app.services.models.select(other.id)
        rule.waitFor { state.bundle?.id == other.id }
        assertNull(state.report)

        val first = app.services.store.list().first { it.id != other.id }
        engine.isPaced = true
        start.performScrollTo().performClick()
        rule.waitFor { rule.onAllNodesWithTag("benchmark-progress").fetchSemanticsNodes().isNotEmpty() }
        app.services.models.select(first.id)
        rule.waitFor { state.bundle?.id == first.id }
        engine.isPaced = false
        engine.step(100)
        rule.waitFor { state.progress == null }
        assertNull(state.report)
    }

    /** Presses the button and answers as the system's picker would; null: nothing was picked. Returns what was asked. */
    private fun export(activity: ActivityController<ComponentActivity>, place: Uri?): Intent {
        rule.onNodeWithTag("benchmark-export").performScrollTo().performClick()
        val asked = shadowOf(activity.get()).nextStartedActivityForResult.intent
        val code = if (place == null) Activity.RESULT_CANCELED else Activity.RESULT_OK
        shadowOf(activity.get()).receiveResult(asked, code, place?.let { Intent().setData(it) })
        rule.waitForIdle()
        return asked
    }

    private fun provide(file: File): Uri {
        OneFile.file = file
        OneFile.problem = null
        Robolectric.setupContentProvider(OneFile::class.java, "files")
        return Uri.parse("content://files/report.json")
    }

    /** The documents provider of another app, with one file. */
    class OneFile : ContentProvider() {
        override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
            problem?.let { throw it }
            if (file?.parentFile?.isDirectory != true) throw FileNotFoundException("no such folder")
            return ParcelFileDescriptor.open(file, ParcelFileDescriptor.parseMode(mode))
        }

        override fun onCreate() = true
        override fun getType(uri: Uri) = "application/json"
        override fun query(uri: Uri, columns: Array<out String>?, where: String?, values: Array<out String>?, order: String?): Cursor? = null
        override fun insert(uri: Uri, values: ContentValues?): Uri? = null
        override fun delete(uri: Uri, where: String?, values: Array<out String>?) = 0
        override fun update(uri: Uri, new: ContentValues?, where: String?, values: Array<out String>?) = 0

        companion object {
            var file: File? = null
            var problem: RuntimeException? = null
        }
    }

    private companion object {
        val LONG = BenchmarkPlan(promptTokens = 32, decodeTokens = 63, rounds = 5)
    }
}
