package org.etpipeline.demo.engine

import java.io.File
import java.util.concurrent.CountDownLatch
import kotlin.math.abs
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.ChatSession
import org.etpipeline.core.EngineException
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.TextUse
import org.etpipeline.core.readManifest
import org.etpipeline.engine.EmbeddingEngine
import org.etpipeline.engine.LlmModuleEngine
import org.etpipeline.engine.openEngine
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** A language model and an embedder in one process, on Android's own library: it crashes if either has the old threads. */
class SeveralProgramsTest {
    @get:Rule val temporary = TemporaryFolder()

    private val folder = File(checkNotNull(System.getProperty("et.bundle")))
    private val manifest = read(folder)
    private val embedding = File(checkNotNull(System.getProperty("et.references"))).resolveSibling("embeddings/minilm")
    private val adapted = embedding.resolveSibling("../adapters")
    private val opened = mutableListOf<AutoCloseable>()

    @After fun close() = opened.forEach { it.close() }

    private fun read(folder: File) = readManifest(File(folder, Manifest.FILE_NAME).readText())

    private fun openModel(): LlmEngine = openEngine(folder, manifest, manifest.programs.first()).also { opened += it }

    private fun openEmbedder(): EmbeddingEngine =
        read(embedding).let { EmbeddingEngine(embedding, it, it.programs.first()) }.also { opened += it }

    private fun openAdapted() =
        LlmModuleEngine(
            File(adapted, "model.pte"), File(adapted, "tokenizer.json"), 256,
            manifest.tokenizer.specialTokens, File(adapted, "model.ptd"),
        ).also { opened += it }

    private fun session(engine: LlmEngine) = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)

    private suspend fun ask(engine: LlmEngine) = session(engine).ask("What is the capital of Italy?", 64).text

    private suspend fun EmbeddingEngine.similarity(): Float {
        val one = embed("A man is playing the guitar on stage.", TextUse.QUERY)
        val other = embed("Someone performs music with a guitar.", TextUse.DOCUMENT)
        return one.indices.map { one[it] * other[it] }.sum()
    }

    private fun assertSimilar(found: Float) = assertTrue("$found", abs(found - 0.669f) < 0.005f)

    @Test fun `in turn, 20 times`() = runBlocking<Unit> {
        val model = openModel()
        val embedder = openEmbedder()
        repeat(20) {
            assertEquals("The capital of Italy is Rome.", ask(model))
            assertSimilar(embedder.similarity())
        }
    }

    @Test fun `whichever is opened and closed meanwhile, 20 times`() = runBlocking<Unit> {
        val model = openModel()
        repeat(20) { round ->
            assertEquals("The capital of Italy is Rome.", ask(model))
            val embedder = openEmbedder()
            assertSimilar(embedder.similarity())
            val second = openModel()
            assertEquals("The capital of Italy is Rome.", ask(second))
            assertSimilar(embedder.similarity())
            if (round % 2 == 0) embedder.close() // else there are more and more
            second.close()
        }
    }

    @Test fun `at the same time`() = runBlocking<Unit> {
        val model = openModel()
        val embedder = openEmbedder()
        val work = List(4) { async(Dispatchers.Default) { repeat(10) { assertSimilar(embedder.similarity()) } } } +
            List(4) {
                async(Dispatchers.Default) { repeat(5) { assertEquals("The capital of Italy is Rome.", ask(model)) } }
            }
        work.awaitAll()
    }

    @Test fun `a conversation goes on after another program was opened`() = runBlocking<Unit> {
        val model = openModel()
        val session = session(model)
        session.ask("My name is Emma.", 64)
        assertSimilar(openEmbedder().similarity())
        val answer = session.ask("What is my name?", 64)
        assertTrue(answer.text, "Emma" in answer.text)
    }

    @Test fun `what opens waits for the end of the answer`() = runBlocking<Unit> {
        val model = openModel()
        val embedder = openEmbedder()
        val began = CountDownLatch(1)
        val goOn = CountDownLatch(1)
        val answer = async(Dispatchers.Default) {
            session(model).ask("What is the capital of Italy?", 64) { began.countDown(); goOn.await() }
        }
        began.await()
        val similarity = async(Dispatchers.Default) { embedder.similarity() }
        delay(300)
        assertFalse(similarity.isCompleted)
        goOn.countDown()
        assertEquals("The capital of Italy is Rome.", answer.await().text)
        assertSimilar(similarity.await())
    }

    @Test fun `one that is being closed is not loaded again`() = runBlocking<Unit> {
        repeat(20) {
            val old = openModel()
            ask(old)
            old.close() // later, on its own thread
            assertEquals("The capital of Italy is Rome.", ask(openModel().also { new -> new.load() }))
            assertEquals(Problem.EngineClosed, assertThrows(EngineException::class.java) { runBlocking { ask(old) } }.problem)
            opened.forEach { it.close() }
        }
    }

    @Test fun `a program that is refused leaves the others as they were`() = runBlocking<Unit> {
        val model = openModel()
        ask(model)
        // For a delegate that the runtime does not have: it finds that out when the method is loaded.
        val bytes = File(embedding, "xnnpack.pte").readBytes().toString(Charsets.ISO_8859_1)
        val broken = temporary.newFile().apply {
            writeText(bytes.replace("XnnpackBackend", "XnnpackBackenX"), Charsets.ISO_8859_1)
        }
        val wrong = read(embedding).let {
            EmbeddingEngine(embedding, it, it.programs.first().copy(file = broken.relativeTo(embedding).path))
        }
        assertThrows(EngineException::class.java) { runBlocking { wrong.embed("a", TextUse.QUERY) } }
        wrong.close()
        assertEquals("The capital of Italy is Rome.", ask(model))
    }

    @Test fun `also with a model whose weights lie beside its program`() = runBlocking<Unit> {
        val model = openAdapted()
        val session = session(model)
        val first = session.ask("My name is Emma.", 64).text
        repeat(5) {
            val embedder = openEmbedder()
            assertSimilar(embedder.similarity())
            val answer = session.ask("What is my name?", 64).text
            assertTrue("$first $answer", "Emma" in answer)
            assertSimilar(embedder.similarity())
            session.rewind(2)
            embedder.close()
        }
    }
}
