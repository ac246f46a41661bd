package org.etpipeline.demo.engine

import java.io.File
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.float
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.TextUse
import org.etpipeline.core.readManifest
import org.etpipeline.engine.EmbeddingEngine
import org.etpipeline.engine.LocalModel
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** What embeds on Android's own ExecuTorch library gives Python's vectors; `tools/embeddings.py` makes bundles and them. */
class EmbeddingEngineTest {
    private val folder = File(checkNotNull(System.getProperty("et.references"))).resolveSibling("embeddings")
    private val expected = Json.parseToJsonElement(File(folder, "vectors.json").readText()).jsonObject
    private val opened = mutableListOf<EmbeddingEngine>()

    @After fun close() = opened.forEach { it.close() }

    private fun manifest(name: String): Manifest = readManifest(File(folder, "$name/${Manifest.FILE_NAME}").readText())

    private fun open(name: String, dimension: Int? = null, change: (Program) -> Program = { it }): EmbeddingEngine {
        val manifest = manifest(name)
        val program = change(manifest.programs.single())
        return EmbeddingEngine(File(folder, name), manifest, program, dimension).also { opened += it }
    }

    private fun EmbeddingEngine.vector(text: String, use: TextUse = TextUse.QUERY) = runBlocking { embed(text, use) }

    private fun check(key: String, engine: EmbeddingEngine, use: TextUse = TextUse.QUERY) {
        val cases = expected.getValue(key).jsonArray.map { it.jsonObject }
        assertTrue(cases.size > 10)
        val worst = cases.minOf { case ->
            val wanted = case.vector()
            val found = engine.vector(case.text(), use)
            assertEquals(wanted.size, found.size)
            assertEquals(1.0, cosine(found, found), 1e-5)
            cosine(wanted, found).also { assertTrue("$key: $it for '${case.text().take(60)}'", it > 0.99999) }
        }
        println("$key: lowest cosine $worst")
    }

    private fun JsonObject.text() = getValue("text").jsonPrimitive.content

    private fun JsonObject.vector() = getValue("vector").jsonArray.map { it.jsonPrimitive.float }.toFloatArray()

    private fun cosine(one: FloatArray, other: FloatArray) = one.indices.sumOf { one[it].toDouble() * other[it] }

    @Test fun `MiniLM's vectors are those of the Python runner, in every script, and of texts that are cut`() =
        check("minilm", open("minilm"))

    @Test fun `prompts go before a text, each for its use`() {
        val engine = open("small")
        check("query", engine, TextUse.QUERY)
        check("document", engine, TextUse.DOCUMENT)
        assertTrue(cosine(engine.vector("a"), engine.vector("a", TextUse.DOCUMENT)) < 0.999)
    }

    @Test fun `shorter vectors, where the model was trained for them`() {
        check("short", open("small", 16))
        assertThrows(IllegalArgumentException::class.java) { open("small", 20) }
    }

    @Test fun `padded texts with a mask, for a program of one length`() =
        check("padded", open("small") { it.copy(file = "../padded.pte", signature = Program.TOKENS_MASK, maxContext = 64) })

    @Test fun `tokens are counted without those around a text, and that many fit`() {
        val engine = open("minilm")
        assertEquals(254, engine.mostTokens(TextUse.DOCUMENT))
        assertEquals(4, runBlocking { engine.countTokens("the guitar on stage") })
        val prompted = open("small")
        assertEquals(128 - 2 - "title: none | text: ".length, prompted.mostTokens(TextUse.DOCUMENT))
    }

    @Test fun `the samples of the bundle are found again`() {
        val engine = open("minilm")
        for (sample in manifest("minilm").embedding!!.samples) {
            assertEquals(sample.cosine, cosine(engine.vector(sample.first), engine.vector(sample.second)), 0.01)
        }
    }

    @Test fun `what is missing, broken or closed is said`() {
        val missing = open("minilm") { it.copy(file = "nothing.pte") }
        assertEquals(Problem.MissingFile("nothing.pte"), problemOf { missing.vector("a") })
        val broken = open("minilm") { it.copy(file = "tokenizer.json") }
        assertTrue(problemOf { broken.vector("a") } is Problem.BadProgram)
        val engine = open("small")
        engine.vector("a")
        engine.close()
        assertEquals(Problem.EngineClosed, problemOf { engine.vector("a") })
    }

    @Test fun `such a bundle is no model to talk to`() {
        val error = assertThrows(BundleException::class.java) { LocalModel(File(folder, "minilm")) }
        assertEquals(Problem.NoChatModel(manifest("minilm").what.name), error.problem)
    }

    private fun problemOf(block: () -> Unit) = assertThrows(EngineException::class.java, block).problem
}
