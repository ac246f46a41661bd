package org.etpipeline.core

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Job
import kotlinx.coroutines.launch
import kotlinx.coroutines.test.runTest
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Test

class BenchmarkTest {
    private class Probe(private val batteries: List<BatteryReading?> = listOf(null)) : PhoneProbe {
        private var reads = 0
        private var pss = 100L
        override val name = "Phone 7, Android 16"
        override val threads = 4
        override fun pssBytes() = pss.also { pss += 1000 }
        override fun thermalStatus() = if (reads < 2) "none" else "light"
        override fun battery() = batteries.getOrElse(reads++) { batteries.last() }
    }

    /** A reading before the first of [rounds] and one behind each, with [microAh] lost in each. */
    private fun readings(rounds: Int, microAh: Long, start: BatteryReading = BatteryReading(2_000_000, 4000, false)) =
        List(rounds + 1) { start.copy(chargeMicroAh = start.chargeMicroAh - it * microAh) }

    private val engines = mutableListOf<FakeEngine>()

    /** Engines whose model answers with [length] tokens every time. */
    private fun engine(length: Int, capacity: Int = 100_000) = FakeEngine(capacity).also { engine ->
        engine.onFed = { engine.answers += List(length) { "x" } }
        engines += engine
    }

    private val plan = BenchmarkPlan(promptTokens = 100, decodeTokens = 20, rounds = 3, warmups = 2)

    /** Of enough tokens and rounds for a figure of the battery. */
    private val longPlan = plan.copy(decodeTokens = 60, rounds = 5)

    @Test
    fun `percentiles are those of numpy`() {
        assertEquals(Percentiles(1.0, 1.0, 1.0), percentiles(listOf(1.0)))
        assertEquals(Percentiles(1.1, 1.5, 1.9), percentiles(listOf(1.0, 2.0)))
        assertEquals(Percentiles(1.2, 2.0, 2.8), percentiles(listOf(3.0, 1.0, 2.0)))
        assertEquals(Percentiles(1.625, 3.75, 8.0), percentiles(listOf(5.5, 1.25, 9.0, 7.0, 2.0, 2.0)))
        assertEquals(Percentiles(20.0, 60.0, 100.0), percentiles(List(11) { 10.0 * (it + 1) }))
    }

    @Test
    fun `rounds are measured, summed up and reported`() = runTest {
        val progress = mutableListOf<Triple<Int, Int, Phase>>()
        val subject = BenchmarkSubject(readManifest(sampleManifest()), readManifest(sampleManifest()).programs.first())
        val report = runBenchmark({ engine(1000) }, plan, 4096, Probe(), subject) { done, of, phase ->
            progress += Triple(done, of, phase)
        }
        assertEquals(3, engines.size)
        assertTrue(engines.all { it.closed && it.loads == 1 })
        assertEquals(3, report.rounds.size)
        val round = report.rounds.first()
        assertEquals(41.0, round.loadMs, 0.0)
        assertEquals("the fake's prompt has a token per character", 100.0, round.promptTokens.toDouble(), 3.0)
        assertEquals(10.0 + round.promptTokens, round.ttftMs, 0.0)
        assertEquals(round.promptTokens * 1000 / round.ttftMs, round.prefillTokS, 1e-9)
        assertEquals(20, round.decodedTokens)
        assertEquals(20 * 1000 / (21 * 20.0), round.decodeTokS, 1e-9)
        val speed = report.speed
        assertEquals("Phone 7, Android 16", speed.where)
        assertEquals(4, speed.threads)
        assertEquals(20, speed.decodeTokens)
        assertEquals(3100L, speed.peakRssBytes)
        assertEquals(3000L, speed.programRssBytes)
        assertNull(speed.energy)
        assertEquals(3, engines[1].resets)
        assertEquals(Triple(0, 3, Phase.LOAD), progress.first())
        assertEquals(1, progress.count { it.third == Phase.PREPARE })
        assertEquals(Triple(3, 3, Phase.MEASURE), progress.last())
        assertEquals(progress.map { it.first }.sorted(), progress.map { it.first })
        assertEquals("Small model", report.bundle)
        assertEquals("model/xnnpack.pte", report.file)
        assertEquals(sha256Of(SAMPLE_FILES.getValue("model/xnnpack.pte")), report.sha256)
    }

    @Test
    fun `the report is JSON whose speed a manifest can take`() = runTest {
        val report = runBenchmark({ engine(1000) }, longPlan, 4096, Probe(readings(5, microAh = 2_000)))
        val json = Json.parseToJsonElement(report.toJson()).jsonObject
        assertEquals("et_pipeline.benchmark", json.getValue("format").jsonPrimitive.content)
        assertEquals("1", json.getValue("version").jsonPrimitive.content)
        assertEquals(report, Json.decodeFromString(BenchmarkReport.serializer(), report.toJson()))
        val manifest = readManifest(edited("speed", "[${json.getValue("speed")}]"))
        assertEquals(report.speed, manifest.speed.single())
    }

    @Test
    fun `energy is charge times voltage per token`() = runTest {
        val report = runBenchmark({ engine(1000) }, longPlan, 4096, Probe(readings(5, microAh = 2_000)))
        // 10 mAh at 4 V are 144 J. Each round has two warm-ups of 2 tokens and an answer of 61; the search for the
        // prompt has one token per trial.
        val tokens = 5 * (2 * 2 + 61) + engines.first().requests.count { it.maxNewTokens == 1 }
        assertEquals(144.0 / tokens, report.speed.energy!!, 1e-9)
        assertEquals(10_000.0 / tokens, report.batteryMahPer1000Tokens!!, 1e-9)
        assertEquals("measured", report.battery)
    }

    @Test
    fun `what is too little for a figure has none, and says so`() = runTest {
        val full = BatteryReading(2_000_000, 4000, false)
        val tooLittle = mapOf(
            "few tokens" to (longPlan.copy(decodeTokens = 20) to readings(5, microAh = 2_000)),
            "few rounds" to (longPlan.copy(rounds = 4, decodeTokens = 100) to readings(4, microAh = 2_000)),
            "one jump of a coarse counter" to
                (longPlan to listOf(full, full, full, full.copy(chargeMicroAh = 1_950_000))),
        )
        for ((name, case) in tooLittle) {
            val report = runBenchmark({ engine(1000) }, case.first, 4096, Probe(case.second))
            assertNull(name, report.batteryMahPer1000Tokens)
            assertEquals(name, "too little", report.battery)
        }
    }

    @Test
    fun `each round says how hot the phone was, and the report whether it was slowed down`() = runTest {
        val report = runBenchmark({ engine(1000) }, plan, 4096, Probe())
        assertEquals(listOf("none", "light", "light"), report.rounds.map { it.thermal })
        assertEquals("none" to "light", report.thermalBefore to report.thermalAfter)
        assertEquals(false, report.wasHot)
        val heat = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown", null)
        assertEquals(
            listOf("severe", "critical", "emergency", "shutdown"),
            heat.filter { status -> report.copy(rounds = report.rounds.map { it.copy(thermal = status) }).wasHot },
        )
        assertEquals(true, report.copy(thermalAfter = "critical").wasHot)
    }

    @Test
    fun `no energy when the phone was plugged in, the counter stood still, or there is none`() = runTest {
        val full = BatteryReading(2_000_000, 4000, false)
        val less = full.copy(chargeMicroAh = 1_990_000)
        val unknown = listOf(
            listOf(full, full), listOf(less, full), listOf(full, less.copy(plugged = true)),
            listOf(full.copy(plugged = true), less), listOf(null, less), listOf(full, null),
        )
        for (readings in unknown) {
            val report = runBenchmark({ engine(1000) }, longPlan, 4096, Probe(readings))
            assertNull("$readings", report.speed.energy)
            assertNull(report.batteryMahPer1000Tokens)
        }
    }

    @Test
    fun `a model that ends early is asked on`() = runTest {
        val report = runBenchmark({ engine(6) }, plan, 4096, Probe())
        assertEquals(listOf(20, 20, 20), report.rounds.map { it.decodedTokens })
        val fed = engines.last().fed
        // Each answer of six tokens has five decode steps.
        assertEquals(3, fed.takeLastWhile { it == "The quick brown fox jumps over the lazy dog. " }.size)
    }

    @Test
    fun `asking on ends when the context is full`() = runTest {
        val report = runBenchmark({ engine(3, capacity = 250) }, plan.copy(decodeTokens = 200), 250, Probe())
        assertTrue(report.speed.decodeTokens in 2..20)
    }

    @Test
    fun `a model that says nothing cannot be measured`() = runTest {
        try {
            runBenchmark({ engine(0, capacity = 500) }, plan, 500, Probe())
            fail()
        } catch (error: EngineException) {
            assertTrue(error.problem is Problem.EngineFailed)
        }
        assertTrue(engines.all { it.closed })
    }

    @Test
    fun `the prompt comes as near as words allow`() = runTest {
        for (wanted in listOf(1, 2, 7, 64, 128, 500, 1000)) {
            engines.clear()
            val report = runBenchmark({ engine(1000) }, BenchmarkPlan(wanted, 4, 1, 0), 8192, Probe())
            assertEquals("$wanted", wanted.toDouble(), report.speed.promptTokens.toDouble(), 3.0)
            assertTrue(engines.single().fed.size <= 14)
        }
    }

    @Test
    fun `a prompt takes at most half of the context`() = runTest {
        val report = runBenchmark({ engine(1000, capacity = 64) }, BenchmarkPlan(128, 64, 2, 1), 64, Probe())
        assertEquals(32.0, report.speed.promptTokens.toDouble(), 3.0)
        assertTrue(report.speed.decodeTokens >= 20)
    }

    @Test
    fun `engines are closed when one fails`() = runTest {
        try {
            val failing = { engine(5).also { it.beforePiece = { throw EngineException(Problem.EngineFailed("x")) } } }
            runBenchmark({ failing() }, plan, 4096, Probe())
            fail()
        } catch (error: EngineException) {
            assertEquals(Problem.EngineFailed("x"), error.problem)
        }
        assertTrue(engines.single().closed)
    }

    @Test
    fun `cancelling stops and closes the engine`() = runTest {
        var job: Job? = null
        job = launch {
            runBenchmark({ engine(1000).also { it.beforePiece = { job?.cancel() } } }, plan, 4096, Probe())
        }
        job.join()
        assertTrue(job.isCancelled)
        assertEquals(1, engines.single().stops)
        assertTrue(engines.single().closed)
        assertEquals(1, engines.single().fed.size)
    }

    @Test
    fun `stopping the engine ends the benchmark`() = runTest {
        try {
            runBenchmark({ engine(1000).also { e -> e.beforePiece = { e.stop() } } }, plan, 4096, Probe())
            fail()
        } catch (_: CancellationException) {
            assertTrue(engines.single().closed)
        }
    }
}
