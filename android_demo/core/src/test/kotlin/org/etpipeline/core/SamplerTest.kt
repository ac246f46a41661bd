package org.etpipeline.core

import java.io.File
import java.util.BitSet
import kotlin.math.abs
import kotlin.math.sqrt
import kotlin.random.Random
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.float
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class SamplerTest {
    private val none = Tokens()

    private fun sampler(sampling: Sampling, seed: Long = 0, bias: Map<Int, Float> = emptyMap(), frequency: Float = 0f) =
        Sampler(GenerationRequest(1, sampling, seed = seed, logitBias = bias, frequencyPenalty = frequency))

    private fun draw(sampler: Sampler, logits: FloatArray, times: Int, context: Tokens = none, answer: Int = 0): IntArray {
        val counts = IntArray(logits.size)
        repeat(times) { counts[sampler.next(logits.copyOf(), context, answer)]++ }
        return counts
    }

    @Test fun `what is drawn is what transformers draws, with its processors`() {
        val file = File(checkNotNull(System.getProperty("et.references"))).resolveSibling("sampling.json")
        val content = Json.parseToJsonElement(file.readText()).jsonObject
        val logits = content.getValue("logits").jsonArray.map { it.jsonPrimitive.float }.toFloatArray()
        val before = Tokens().also { it += content.getValue("before").jsonArray.map { id -> id.jsonPrimitive.int }.toIntArray() }
        val cases = content.getValue("cases").jsonArray.map { it.jsonObject }
        assertEquals(216, cases.size)
        for (case in cases) {
            val expected = case.getValue("probabilities").jsonObject.map { (id, share) -> id.toInt() to share.jsonPrimitive.double }.toMap()
            val settings = Json.decodeFromJsonElement(Sampling.serializer(), case.getValue("settings"))
            val bias = case.getValue("bias").jsonObject.map { (id, value) -> id.toInt() to value.jsonPrimitive.float }.toMap()
            checkCandidates(case, sampler(settings, bias = bias), logits, before, expected)
            checkDraws(case, sampler(settings, seed = 1, bias = bias), logits, before, expected)
        }
    }

    private fun checkCandidates(case: JsonObject, sampler: Sampler, logits: FloatArray, before: Tokens, expected: Map<Int, Double>) {
        val weighed = logits.copyOf()
        sampler.weigh(weighed, before, 0, null)
        val found = sampler.candidates(weighed)
        val settings = case.getValue("settings").toString()
        assertEquals(settings, expected.keys, found.ids.toSet())
        val total = found.weights.sum()
        for ((at, id) in found.ids.withIndex()) {
            assertEquals("$settings: $id", expected.getValue(id), found.weights[at] / total, 2e-6)
        }
    }

    /** Pearson's chi-square over the tokens that are expected often enough, the others as one. */
    private fun checkDraws(case: JsonObject, sampler: Sampler, logits: FloatArray, before: Tokens, expected: Map<Int, Double>) {
        val times = 2000
        val counts = draw(sampler, logits, times, before)
        assertEquals(times, expected.keys.sumOf { counts[it] })
        val (often, seldom) = expected.entries.partition { it.value * times >= 5 }
        val cells = often.map { counts[it.key] to it.value * times } +
            (seldom.sumOf { counts[it.key] } to seldom.sumOf { it.value } * times)
        val used = cells.filter { (_, wanted) -> wanted >= 5 }
        val distance = used.sumOf { (count, wanted) -> (count - wanted) * (count - wanted) / wanted }
        val freedom = maxOf(1, used.size - 1)
        assertTrue("${case["settings"]}: $distance of $freedom", distance <= freedom + 6 * sqrt(2.0 * freedom))
    }

    @Test fun `at temperature 0 the first of the most probable comes, after penalties`() {
        val logits = floatArrayOf(1f, 5f, 5f, 4f)
        val context = Tokens().also { it += intArrayOf(1, 2) }
        assertEquals(1, sampler(Sampling()).next(logits.copyOf(), none, 0))
        assertEquals(3, sampler(Sampling(repetitionPenalty = 2f)).next(logits.copyOf(), context, 0))
        assertEquals(2, sampler(Sampling(), bias = mapOf(2 to 0.5f)).next(logits.copyOf(), none, 0))
    }

    @Test fun `the frequency penalty counts the answer's tokens, each time`() {
        val context = Tokens().also { it += intArrayOf(0, 0, 0, 1, 2, 2) }
        val logits = floatArrayOf(2f, 2.5f, 3f)
        assertEquals(0, sampler(Sampling(), frequency = 1f).next(logits.copyOf(), context, 3)) // 2, 1.5, 1
        assertEquals(2, sampler(Sampling(), frequency = 1f).next(logits.copyOf(), context, 0))
    }

    @Test fun `the presence penalty counts the answer's tokens, once each`() {
        val context = Tokens().also { it += intArrayOf(0, 0, 0, 1, 2, 2) }
        val penalized = Sampler(GenerationRequest(1, presencePenalty = 1f))
        assertEquals(2, penalized.next(floatArrayOf(1.9f, 2.5f, 3f), context, 3)) // 1.9, 1.5, 2
        assertEquals(0, penalized.next(floatArrayOf(2.1f, 2.5f, 3f), context, 3)) // 2.1, 1.5, 2
        val both = Sampler(GenerationRequest(1, frequencyPenalty = 0.5f, presencePenalty = 1f))
        assertEquals(0, both.next(floatArrayOf(1.1f, 2.5f, 3f), context, 3)) // 1.1, 1, 1
    }

    @Test fun `only what is allowed comes`() {
        val logits = FloatArray(50) { -it.toFloat() }
        val allowed = BitSet().apply { set(40); set(45) }
        for (sampling in listOf(Sampling(), Sampling(1f), Sampling(1f, topP = 0.99f, topK = 30, minP = 0.001f))) {
            val drawn = List(200) { sampler(sampling, it.toLong()).next(logits.copyOf(), none, 0, allowed) }.toSet()
            assertTrue("$sampling $drawn", drawn.all { allowed[it] } && 40 in drawn)
        }
        val nothing = assertThrows(EngineException::class.java) { sampler(Sampling(1f)).next(logits, none, 0, BitSet()) }
        assertTrue(nothing.problem is Problem.EngineFailed)
    }

    @Test fun `logits that are no numbers are a problem with a name`() {
        for (broken in listOf(Float.NaN, Float.NEGATIVE_INFINITY, Float.POSITIVE_INFINITY)) {
            for (sampling in listOf(Sampling(), Sampling(1f, topP = 0.5f))) {
                val error = assertThrows(EngineException::class.java) {
                    sampler(sampling).next(FloatArray(9) { broken }, none, 0)
                }
                assertTrue(error.problem is Problem.EngineFailed)
            }
        }
    }

    @Test fun `the largest, in order, of equal ones the first`() {
        val random = Random(0)
        repeat(200) {
            val values = FloatArray(1 + random.nextInt(300)) { random.nextInt(40).toFloat() }
            val count = 1 + random.nextInt(values.size)
            val expected = values.indices.sortedWith(compareBy({ -values[it] }, { it })).take(count)
            assertArrayEquals(expected.toIntArray(), largest(values, count))
        }
    }

    @Test fun `a seed draws the same again`() {
        val logits = FloatArray(100) { 0f }
        fun drawn(seed: Long) = sampler(Sampling(1f), seed).let { sampler -> List(20) { sampler.next(logits.copyOf(), none, 0) } }
        assertEquals(drawn(7), drawn(7))
        assertTrue(drawn(7) != drawn(8))
        assertTrue(drawn(7).toSet().size > 5 && abs(drawn(7).average() - 50) < 45)
    }
}
