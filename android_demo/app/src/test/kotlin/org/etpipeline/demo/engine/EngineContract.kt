package org.etpipeline.demo.engine

import java.io.File
import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.ChatSession
import org.etpipeline.core.EngineException
import org.etpipeline.core.Generation
import org.etpipeline.core.Generation.End
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Manifest
import org.etpipeline.core.Message
import org.etpipeline.core.Problem
import org.etpipeline.core.Role
import org.etpipeline.core.Sampling
import org.etpipeline.core.readManifest
import org.etpipeline.engine.executorchBackends
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** What the app relies on, on Android's own unmodified ExecuTorch library and the built-in model. */
abstract class EngineContract {
    @get:Rule val temporary = TemporaryFolder()

    protected val folder = File(checkNotNull(System.getProperty("et.bundle")))
    protected val manifest: Manifest = readManifest(File(folder, "manifest.json").readText())
    protected val program = manifest.programs.first()
    protected val pte = File(folder, program.file)
    protected val tokenizer = File(folder, manifest.tokenizer.file)
    private val opened = mutableListOf<LlmEngine>()
    protected val engine by lazy { open() }

    protected val italy = "What is the capital of Italy?"
    protected val first = manifest.chat.segments.startToUser + italy + manifest.chat.segments.userToAssistant

    @After fun close() = opened.forEach { it.close() }

    /** An engine of the kind that is tested. */
    protected abstract fun make(pte: File, tokenizer: File, normalization: String?): LlmEngine

    protected fun open(
        pte: File = this.pte,
        tokenizer: File = this.tokenizer,
        normalization: String? = null,
    ): LlmEngine = keep(make(pte, tokenizer, normalization))

    protected fun <T : LlmEngine> keep(engine: T): T = engine.also { opened += it }

    protected class Said(val text: String, val generation: Generation)

    protected fun LlmEngine.say(
        prompt: String,
        maxNewTokens: Int = 64,
        temperature: Float = 0f,
        goOn: (List<String>) -> Boolean = { true },
    ): Said = runBlocking {
        val pieces = mutableListOf<String>()
        val generation = generate(prompt, GenerationRequest(maxNewTokens, Sampling(temperature))) {
            pieces += it
            goOn(pieces)
        }
        val shown = pieces.filterNot { it in manifest.tokenizer.specialTokens }
        Said(shown.joinToString(""), generation)
    }

    protected fun problemOf(block: () -> Unit): Problem = assertThrows(EngineException::class.java, block).problem

    @Test fun `greedy text equals that of the Python runner on 20 prompts`() {
        val file = File(checkNotNull(System.getProperty("et.references")) { "run with --references" })
        val references = Json.parseToJsonElement(file.readText()).jsonArray.map { it.jsonObject }
        assertEquals(20, references.size)
        for (reference in references) {
            runBlocking { engine.reset() }
            val prompt = reference.getValue("prompt").jsonPrimitive.content
            val said = engine.say(prompt, reference.getValue("max_new_tokens").jsonPrimitive.int)
            assertEquals(prompt, reference.getValue("text").jsonPrimitive.content, said.text)
        }
    }

    @Test fun `a prompt is normalized where the manifest leaves that to the caller`() {
        val apart = "Cafe\u0301 at e\u0301lite's?" // letters and accents of their own
        val composed = "Caf\u00e9 at \u00e9lite's?"
        fun tokens(prompt: String, normalization: String?) =
            open(normalization = normalization).say(prompt, maxNewTokens = 1).generation.promptTokens
        assertEquals(tokens(composed, null), tokens(apart, "NFC"))
        assertEquals(tokens(apart, null), tokens(composed, "NFD"))
        assertTrue(tokens(apart, null) != tokens(composed, null))
    }

    @Test fun `an answer that was cut goes on`() = runBlocking {
        for (cutAt in 1..6) {
            val session = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
            session.ask(italy, cutAt)
            val whole = session.goOn(64)
            assertEquals("cut at $cutAt", "The capital of Italy is Rome.", whole.text)
            assertEquals(End.MODEL, whole.generation.end)
            assertEquals("The capital of Spain is Madrid.", session.ask("What is the capital of Spain?", 64).text)
        }
    }

    @Test fun `the model ends its answer`() {
        val said = engine.say(first)
        assertEquals("The capital of Italy is Rome.", said.text)
        assertEquals(End.MODEL, said.generation.end)
        assertEquals("", said.generation.unfed)
        assertEquals(8, said.generation.tokens)
        assertTrue(said.generation.ttftMs > 0 && said.generation.decodeMs > 0)
    }

    @Test fun `a second turn feeds only itself, and is answered as if all had been fed at once`() {
        val text = engine.say(first).text
        val second = manifest.chat.segments.nextTurn("And of Spain?")
        val inTurn = engine.say(second)
        val whole = open()
        val alone = open().say(second).generation.promptTokens
        val atOnce = whole.say(first + text + second)
        assertEquals(alone, inTurn.generation.promptTokens)
        assertEquals(atOnce.text, inTurn.text)
        assertTrue(atOnce.generation.promptTokens > 2 * alone)
    }

    @Test fun `a chat session feeds only the new turn`() = runBlocking {
        val session = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
        val one = session.ask("My name is Emma.", 64)
        val two = session.ask("What is my name?", 64)
        assertTrue(two.text, "Emma" in two.text)
        assertTrue(two.generation.promptTokens <= one.generation.promptTokens + 1)
        assertTrue(!two.fedAgain)
    }

    @Test fun `reset forgets`() {
        val fresh = engine.say(first)
        engine.say(manifest.chat.segments.nextTurn("And of Spain?"))
        runBlocking { engine.reset() }
        val again = engine.say(first)
        assertEquals(fresh.text, again.text)
        assertEquals(fresh.generation.promptTokens, again.generation.promptTokens)
    }

    @Test fun `uses grow with each generation and reset`() = runBlocking {
        val before = engine.uses
        engine.say(first)
        engine.reset()
        assertEquals(before + 2, engine.uses)
    }

    @Test fun `stop from another thread, in the middle`() {
        val reached = CountDownLatch(1)
        val stopped = CountDownLatch(1)
        thread {
            reached.await()
            engine.stop()
            stopped.countDown()
        }
        val said = engine.say(first) {
            if (it.size == 3) {
                reached.countDown()
                stopped.await()
            }
            true
        }
        assertEquals("The capital of", said.text)
        assertEquals(End.STOPPED, said.generation.end)
    }

    @Test fun `a stop that comes before the generation begins is not lost`() = runBlocking {
        engine.load()
        val holding = CountDownLatch(1)
        val holder = async(Dispatchers.Default) { engine.say(first) { holding.await(); true } }
        while (engine.uses == 0L) Thread.yield()
        val request = GenerationRequest(64)
        // Undispatched: it has asked, and waits for its turn, when this line is through.
        val waiting = async(start = CoroutineStart.UNDISPATCHED) { engine.generate(first, request) { true } }
        engine.stop()
        holding.countDown()
        assertEquals(End.STOPPED, holder.await().generation.end)
        assertEquals(End.STOPPED, waiting.await().end)
        engine.reset()
        assertEquals(End.MODEL, engine.say(first).generation.end)
    }

    @Test fun `the budget holds`() {
        for (budget in listOf(1, 2, 5)) {
            runBlocking { engine.reset() }
            val said = engine.say(first, budget)
            assertEquals(End.LENGTH, said.generation.end)
            val words = listOf("The", " capital", " of", " It", "aly")
            assertEquals(words.take(budget).joinToString(""), said.text)
        }
    }

    @Test fun `a prompt that does not fit is refused, and the context stays as it was`() {
        engine.say(first)
        val long = manifest.chat.segments.nextTurn("word ".repeat(program.maxContext))
        assertEquals(Problem.PromptTooLong, problemOf { engine.say(long) })
        val said = engine.say(manifest.chat.segments.nextTurn("And of Spain?"))
        assertEquals("The capital of Spain is Madrid.", said.text)
    }

    @Test fun `the end of the context ends the answer`() {
        val prompt = { words: Int -> first + "word ".repeat(words) }
        val most = (program.maxContext downTo 1).first { words ->
            runBlocking { engine.reset() }
            runCatching { engine.say(prompt(words), 1) }.isSuccess
        }
        runBlocking { engine.reset() }
        val generation = engine.say(prompt(most), program.maxContext).generation
        assertEquals(End.CONTEXT, generation.end)
        assertEquals(program.maxContext + 1, generation.promptTokens + generation.tokens) // the last one is not fed
        assertEquals(Problem.PromptTooLong, problemOf { engine.say("and") })
        runBlocking { engine.reset() }
        assertEquals(End.MODEL, engine.say(first).generation.end)
    }

    @Test fun `emoji arrive whole`() {
        val joke = manifest.chat.segments.render(
            listOf(Message(Role.USER, "Good morning! Do you know a joke about phones?")),
        )
        val pieces = mutableListOf<String>()
        val said = engine.say(joke) { pieces += it.last(); true }
        assertTrue(said.text, "☀️" in said.text && "📱" in said.text)
        assertTrue(pieces.none { it.isNotEmpty() && (it.first().isLowSurrogate() || it.last().isHighSurrogate()) })
    }

    @Test fun `an exception in the callback comes out, and the engine goes on`() {
        val thrown = assertThrows(IllegalStateException::class.java) { engine.say(first) { error("from the callback") } }
        assertEquals("from the callback", thrown.message)
        runBlocking { engine.reset() }
        assertEquals(End.MODEL, engine.say(first).generation.end)
    }

    @Test fun `a program that was cut off is refused`() {
        val bytes = pte.readBytes()
        for (length in listOf(0, 7, 39, 1000, bytes.size / 2, bytes.size - 1)) {
            val cut = temporary.newFile().apply { writeBytes(bytes.copyOf(length)) }
            val problem = problemOf { runBlocking { open(cut).load() } }
            assertTrue("$length: $problem", problem is Problem.BadProgram)
        }
    }

    @Test fun `a program of noise is refused`() {
        val bytes = pte.readBytes()
        for (at in 4 until 12) {
            val other = bytes.clone().also { it[at] = (it[at] + 1).toByte() }
            val file = temporary.newFile().apply { writeBytes(other) }
            assertTrue(problemOf { runBlocking { open(file).load() } } is Problem.BadProgram)
        }
    }

    @Test fun `a wrong tokenizer is refused`() {
        val json = temporary.newFile().apply { writeText("""{"version": "1.0"}""") }
        val text = temporary.newFile().apply { writeText("no tokenizer") }
        val empty = temporary.newFile()
        for (wrong in listOf(json, text, empty, pte)) {
            val problem = problemOf { runBlocking { open(tokenizer = wrong).load() } }
            assertTrue("$problem", problem is Problem.BadTokenizer && problem.detail.startsWith(wrong.name))
        }
    }

    @Test fun `missing files are named`() {
        val nowhere = File(temporary.root, "nowhere")
        assertEquals(Problem.MissingFile("nowhere"), problemOf { runBlocking { open(pte = nowhere).load() } })
        assertEquals(Problem.MissingFile("nowhere"), problemOf { runBlocking { open(tokenizer = nowhere).load() } })
    }

    @Test fun `closing while it generates ends the answer, and then everything is refused`() {
        val said = engine.say(first) {
            if (it.size == 3) engine.close()
            true
        }
        assertEquals(End.STOPPED, said.generation.end)
        assertEquals("The capital of", said.text)
        assertEquals(Problem.EngineClosed, problemOf { engine.say(first) })
        assertEquals(Problem.EngineClosed, problemOf { runBlocking { engine.load() } })
        engine.stop()
        engine.close()
    }

    @Test fun `calls from many threads take turns`() = runBlocking {
        val answers = List(8) {
            async(Dispatchers.Default) {
                ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens).ask(italy, 64).text
            }
        }.awaitAll()
        assertEquals(List(8) { "The capital of Italy is Rome." }, answers)
    }

    @Test fun `loading tells how long it took, and only once`() = runBlocking {
        engine.load()
        assertEquals(0, engine.load())
    }

    @Test fun `50 times loaded, asked and closed`() {
        repeat(50) {
            val engine = open()
            assertEquals("The capital of Italy is Rome.", engine.say(first).text)
            engine.close()
        }
    }

    @Test fun `the runtime has the delegate of the built-in model`() {
        assertTrue("xnnpack" in executorchBackends())
    }

    @Test fun `temperature is that of each call`() {
        val cold = engine.say(first).text
        val hot = List(5) {
            runBlocking { engine.reset() }
            runCatching { engine.say(first, temperature = 3f).text }.getOrDefault("")
        }
        assertNotEquals(List(5) { cold }, hot)
    }
}
