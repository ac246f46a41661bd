package org.etpipeline.demo.engine

import java.io.File
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.Answer
import org.etpipeline.core.ChatSession
import org.etpipeline.core.Generation.End
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Message
import org.etpipeline.core.Role
import org.etpipeline.core.Sampling
import org.etpipeline.engine.ModuleEngine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The engine over `Module`: what it can beyond the one over `LlmModule`. */
class ModuleEngineTest : EngineContract() {
    override fun make(pte: File, tokenizer: File, normalization: String?) =
        make(pte, tokenizer, normalization, Int.MAX_VALUE)

    private fun make(pte: File, tokenizer: File, normalization: String?, reach: Int): ModuleEngine {
        // The files may be from anywhere: named from the root, whatever the folder is.
        val text = manifest.tokenizer.copy(file = tokenizer.absolutePath, normalization = normalization)
        return ModuleEngine(File("/"), program.copy(file = pte.absolutePath), text, reach)
    }

    private fun withReach(reach: Int) = keep(make(pte, tokenizer, null, reach))

    /** Generates what begins a text, and keeps what the context has of it. */
    private fun ModuleEngine.begin(prompt: String, request: GenerationRequest = GenerationRequest(64)): Said =
        runBlocking {
            startOver()
            val text = StringBuilder()
            val generation = generate(prompt, request) { text.append(it); true }
            Said(text.toString().removeSuffix("<|end|>"), generation)
        }

    @Test fun `stop by the callback, at the very token`() {
        val pieces = listOf("The", " capital", " of", " It", "aly")
        for (wanted in 1..pieces.size) {
            runBlocking { engine.reset() }
            val said = engine.say(first) { it.size < wanted }
            assertEquals(End.STOPPED, said.generation.end)
            assertEquals(pieces.take(wanted).joinToString(""), said.text)
            assertEquals(wanted, said.generation.tokens)
        }
    }

    @Test fun `what was cut off is fed with the next turn`() {
        val second = manifest.chat.segments.nextTurn("And of Spain?")
        for (wanted in 1..6) {
            runBlocking { engine.reset() }
            val head = engine.say(first) { it.size < wanted }
            val inTurn = engine.say(second)
            val whole = open()
            val atOnce = whole.say(first + head.text + second)
            assertEquals(atOnce.text, inTurn.text)
            assertEquals(atOnce.generation.promptTokens, first(head) + inTurn.generation.promptTokens)
        }
    }

    private fun first(head: Said) = head.generation.promptTokens + head.generation.tokens - 1 // the last was not fed

    @Test fun `bytes that are no text lose nothing behind them`() {
        repeat(12) { seed ->
            runBlocking { engine.reset() }
            val request = GenerationRequest(60, Sampling(temperature = 30f), seed = seed.toLong())
            val pieces = mutableListOf<String>()
            val noise = runBlocking { engine.generate(first, request) { pieces += it; true } }
            assertTrue(noise.end == End.LENGTH || noise.end == End.MODEL)
            assertTrue(pieces.size > noise.tokens / 4)
            runBlocking { engine.reset() }
            assertEquals("The capital of Italy is Rome.", engine.say(first).text)
        }
    }

    @Test fun `a text that begins alike is fed from where it differs, and answered the same`() {
        val engine = withReach(Int.MAX_VALUE)
        val one = engine.begin(first)
        assertEquals(0, one.generation.reusedTokens)
        val again = engine.begin(first)
        assertEquals(one.text, again.text)
        assertEquals(1, again.generation.promptTokens)
        assertEquals(one.generation.promptTokens, again.generation.promptTokens + again.generation.reusedTokens)
        val spain = first.replace("Italy", "Spain")
        val other = engine.begin(spain)
        assertEquals("The capital of Spain is Madrid.", other.text)
        assertTrue(other.generation.reusedTokens in 1 until one.generation.promptTokens)
        assertEquals(other.text, open().say(spain).text)
    }

    @Test fun `states that cannot go back are fed anew, but go on`() {
        val engine = withReach(0)
        val one = engine.begin(first)
        assertEquals(0, engine.begin(first).generation.reusedTokens)
        val spain = manifest.chat.segments.nextTurn("And of Spain?")
        val longer = engine.begin(first + one.text + spain)
        assertEquals(one.generation.promptTokens + one.generation.tokens, longer.generation.reusedTokens)
        assertEquals("The capital of Spain is Madrid.", longer.text)
    }

    @Test fun `a window goes back a few tokens only`() {
        val engine = withReach(4)
        val cut = runBlocking { engine.generate(first, GenerationRequest(3)) { true } }
        assertEquals(cut.promptTokens - 1, engine.begin(first).generation.reusedTokens) // three tokens back
        assertEquals(0, engine.begin(first).generation.reusedTokens) // seven, after a whole answer
    }

    @Test fun `the same seed draws the same, another one something else`() {
        val engine = withReach(Int.MAX_VALUE)
        fun drawn(seed: Long) = engine.begin(first, GenerationRequest(24, Sampling(temperature = 3f), seed = seed)).text
        assertEquals(drawn(1), drawn(1))
        assertNotEquals(List(4) { drawn(1) }, (1L..4L).map(::drawn))
    }

    @Test fun `a chat of 60 turns in a small context never breaks, and feeds little`() = runBlocking<Unit> {
        val session = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
        val answers = mutableListOf<Answer>()
        repeat(60) { turn ->
            val country = listOf("Italy", "Spain", "France", "Germany")[turn % 4]
            answers += session.ask("What is the capital of $country?", 48)
        }
        assertEquals(List(60) { End.MODEL }, answers.map { it.generation.end })
        assertTrue(answers.last().droppedTurns > 20)
        // When the context is full the newest of it is fed once more; 60 turns fill it a few times.
        val fed = answers.sumOf { it.generation.promptTokens }
        val all = answers.indices.sumOf { turn -> tokens(fedWith(session, answers, turn)) }
        println("60 turns: $fed tokens were fed; without what is kept it were $all")
        assertTrue("$fed of $all", 5 * fed < all)
        assertTrue(answers.take(10).drop(1).all { !it.fedAgain && it.generation.promptTokens <= 20 })
        for ((turn, answer) in answers.withIndex()) { // each as if it had been fed alone
            engine.reset()
            assertEquals("turn $turn", answer.text, engine.say(fedWith(session, answers, turn), 48).text)
        }
    }

    private fun fedWith(session: ChatSession, answers: List<Answer>, turn: Int): String {
        val messages = session.messages.take(2 * turn + 1).drop(2 * answers[turn].droppedTurns)
        return manifest.chat.segments.render(messages)
    }

    private fun tokens(text: String): Int = runBlocking {
        engine.reset()
        engine.generate(text, GenerationRequest(1)) { true }.promptTokens
    }

    @Test fun `another answer feeds one token`() = runBlocking {
        val session = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
        session.ask("My name is Emma.", 64)
        val answer = session.ask("What is my name?", 64)
        val again = session.regenerate(64)
        assertEquals(answer.text, again.text)
        assertEquals(1, again.generation.promptTokens)
        val resumed = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens, session.messages.take(2))
        assertEquals(answer.text, resumed.ask("What is my name?", 64).text)
    }

    @Test fun `a system prompt is fed once for many chats`() = runBlocking {
        val system = "You are a helpful assistant. Answer in one sentence."
        fun session() = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens, systemPrompt = system)
        val one = session().ask(italy, 64)
        val other = session().ask("What is the capital of Spain?", 64)
        assertTrue(other.generation.reusedTokens > one.generation.promptTokens / 2)
        val asked = listOf(Message(Role.USER, "What is the capital of Spain?"))
        val alone = open().say(manifest.chat.segments.render(asked, system))
        assertEquals(alone.text, other.text)
    }

    @Test fun `going from one chat to the other feeds what is behind their system prompt`() = runBlocking {
        val system = "You are a helpful assistant who answers in one short sentence, in plain words. ".repeat(4).trim()
        fun session() = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens, systemPrompt = system)
        val (one, other) = session() to session()
        val first = one.ask(italy, 64).generation
        val prompt = first.promptTokens // with the system prompt, once
        val second = other.ask("How much is 14 plus 10?", 64).generation
        val back = one.ask("And of Spain?", 64)
        val again = other.ask("And 3 more?", 64)
        val fed = listOf(second, back.generation, again.generation).map { it.promptTokens }
        assertEquals("as the README says", 110 to 13, prompt to second.promptTokens)
        assertTrue("$fed of $prompt", fed.all { it < prompt / 2 })
        assertTrue(back.fedAgain && again.fedAgain)
        val said = one.messages.dropLast(1)
        assertEquals(open().say(manifest.chat.segments.render(said, system)).text.trim(), back.text.trim())
    }

    @Test fun `an answer that was cut goes on to the very end that it would have had`() = runBlocking {
        val question = "Do you know a joke about phones?"
        fun session(engine: LlmEngine, said: List<Message> = emptyList()) =
            ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens, said)
        val whole = session(engine).ask(question, 64)
        for (cutAt in 1 until whole.generation.tokens) {
            val session = session(engine)
            assertEquals(End.LENGTH, session.ask(question, cutAt).generation.end)
            val cut = session.messages
            val goesOn = session.goOn(64)
            assertEquals("cut at $cutAt", whole.text, goesOn.text)
            assertEquals(1, goesOn.generation.promptTokens)
            assertEquals(whole.generation.tokens, cutAt + goesOn.generation.tokens)
            assertTrue(!session.ask(italy, 64).fedAgain)
            engine.reset() // as after a restart
            assertEquals("cut at $cutAt, and fed again", whole.text, session(engine, cut).goOn(64).text)
        }
    }

    @Test fun `an answer that filled the context goes on with fewer turns`() = runBlocking {
        val session = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
        session.ask("My name is Emma. ".repeat(60), 8)
        val endless = manifest.tokenizer.eosIds.associate { it.toInt() to -1e9f }
        val request = GenerationRequest(500, Sampling(temperature = 30f), seed = 1, logitBias = endless)
        val full = session.ask(italy, request)
        assertEquals(End.CONTEXT, full.generation.end)
        val more = session.goOn(request.copy(maxNewTokens = 16))
        assertTrue(more.text.startsWith(full.text.trimEnd('\uFFFD')) && more.text.length > full.text.length)
        assertEquals(1, more.droppedTurns)
    }

    @Test fun `nothing goes on where nothing was cut`() {
        fun refuses(block: () -> Unit) = assertThrows(IllegalArgumentException::class.java, block)
        refuses { engine.say("") }
        engine.say(first)
        refuses { engine.say("") }
        engine.say(first, maxNewTokens = 2)
        runBlocking { engine.startOver() }
        refuses { engine.say("") }
    }
}
