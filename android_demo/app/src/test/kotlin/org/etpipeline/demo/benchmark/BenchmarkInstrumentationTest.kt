package org.etpipeline.demo.benchmark

import android.os.Bundle
import androidx.test.core.app.ApplicationProvider
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.BenchmarkReport
import org.etpipeline.core.BundleException
import org.etpipeline.core.Problem
import org.etpipeline.core.StoredBundle
import org.etpipeline.demo.RealEngineApp
import org.etpipeline.demo.install
import org.etpipeline.demo.models.PROGRAM
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.startEmpty
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

/** What a computer gets that lets the phone measure, with the real model. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = RealEngineApp::class)
class BenchmarkInstrumentationTest {
    private val app: RealEngineApp = ApplicationProvider.getApplicationContext()
    private val installed: StoredBundle by lazy { runBlocking { builtIn() } }

    private suspend fun builtIn(): StoredBundle {
        app.services.startup.state.first { it.isDone }
        return checkNotNull(app.services.models.bundle)
    }

    private fun StoredBundle.programHash() = manifest!!.run { files.getValue(programs.single().file).sha256 }

    private fun measure(vararg arguments: Pair<String, String>): BenchmarkReport {
        val bundle = Bundle().apply { arguments.forEach { (name, value) -> putString(name, value) } }
        return runBlocking { run(app.services, bundle) }
    }

    private fun refusal(vararg arguments: Pair<String, String>): String? =
        assertThrows(IllegalArgumentException::class.java) { measure(*arguments) }.message

    @Test
    fun `the built-in model is measured in an app that was never opened`() {
        val report = measure("prompt_tokens" to "32", "decode_tokens" to "16", "rounds" to "2")
        assertEquals(installed.programHash(), report.sha256)
        assertEquals(installed.manifest?.what?.name to PROGRAM, report.bundle to report.file)
        assertEquals(2, report.rounds.size)
        assertEquals(32.0, report.speed.promptTokens.toDouble(), 1.0)
        assertEquals(16, report.speed.decodeTokens)
        for (round in report.rounds) {
            assertEquals(report.speed.promptTokens to 16, round.promptTokens to round.decodedTokens)
            assertTrue("$round", round.ttftMs > 0 && round.prefillTokS > 0 && round.decodeTokS > 0)
        }
        assertEquals(app.phone.name to app.phone.threads, report.speed.where to report.speed.threads)
    }

    /** As `et_pipeline/runtime/phone.py` and the manifest's `Speed` name them; unknown ones in `speed` are refused there. */
    @Test
    fun `the report has the fields that the computer reads`() {
        val report = measure("prompt_tokens" to "16", "decode_tokens" to "8", "rounds" to "1")
        val json = Json.parseToJsonElement(report.toJson()).jsonObject
        fun JsonObject.text(name: String) = getValue(name).jsonPrimitive.content
        assertEquals("et_pipeline.benchmark", json.text("format"))
        assertEquals(1, json.getValue("version").jsonPrimitive.int)
        assertEquals(installed.programHash(), json.text("sha256"))
        val speed = json.getValue("speed").jsonObject
        val percentiles = setOf("load_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s")
        val numbers = setOf("threads", "prompt_tokens", "decode_tokens", "program_rss_bytes", "peak_rss_bytes")
        assertEquals(percentiles + numbers + setOf("where", "energy"), speed.keys)
        assertEquals(app.phone.name, speed.text("where"))
        assertEquals(JsonNull, speed["energy"])
        for (name in numbers) assertTrue(name, speed.getValue(name).jsonPrimitive.int >= 0)
        for (name in percentiles) {
            val (p10, p50, p90) = listOf("p10", "p50", "p90").map { speed.getValue(name).jsonObject.getValue(it).jsonPrimitive.double }
            assertTrue(name, p50 in p10..p90 && p10 >= 0)
        }
    }

    @Test
    fun `its hash selects the model that is measured`() {
        installed
        val program = TestBundle.whole.files.getValue(PROGRAM)
        val longer = TestBundle.whole.consistent(PROGRAM, program + ByteArray(64)).edited("what.name", "\"second\"")
        val second = app.services.store.import(longer.source())
        val report = measure("sha256" to second.programHash(), "prompt_tokens" to "8", "decode_tokens" to "4", "rounds" to "1")
        assertEquals("second" to second.programHash(), report.bundle to report.sha256)
        assertEquals(second.id, app.services.models.bundle?.id)
    }

    @Test
    fun `a model that is not on the phone is said so, and the selection stays`() {
        val sentence = refusal("sha256" to "0".repeat(64), "rounds" to "1")
        assertEquals("This model is not on the phone: give it to the app with 'et-bundle push'.", sentence)
        assertEquals(installed.id, app.services.models.bundle?.id)
    }

    @Test
    fun `what is no number is said so`() {
        assertEquals("rounds must be a number, and is 'x'.", refusal("rounds" to "x"))
        assertEquals("prompt_tokens must be a number, and is '1.5'.", refusal("prompt_tokens" to "1.5"))
        assertEquals("decode_tokens must be a number, and is ''.", refusal("decode_tokens" to ""))
    }

    @Test
    fun `without any model there is a problem with a sentence`() {
        app.startEmpty()
        val error = assertThrows(BundleException::class.java) { measure("rounds" to "1") }
        assertEquals(Problem.NoModel, error.problem)
        app.install()
        assertEquals(1, measure("prompt_tokens" to "8", "decode_tokens" to "4", "rounds" to "1").rounds.size)
    }
}
