package org.etpipeline.core

import kotlin.random.Random
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Job
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.launch
import kotlinx.coroutines.test.runTest
import kotlinx.coroutines.yield
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Test

class ChatSessionTest {
    private val format = ChatFormat(
        systemPrefix = "<S>",
        systemToUser = "<U>",
        startToUser = "<B><U>",
        userToAssistant = "<E><A>",
        assistantToUser = "<E><U>",
        userToPastAssistant = "<E><A>",
        supportsSystem = true,
    )
    private val tokens = listOf("<S>", "<B>", "<U>", "<E>", "<A>")
    private val chat = Chat(format, stopStrings = listOf("STOP"))

    private fun session(engine: LlmEngine, messages: List<Message> = emptyList(), chat: Chat = this.chat) =
        ChatSession(engine, chat, tokens, messages)

    private suspend fun problemOf(block: suspend () -> Unit): Problem {
        try {
            block()
        } catch (error: EngineException) {
            return error.problem
        }
        throw AssertionError("no exception")
    }

    @Test
    fun `only the new turn is fed`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("Hel", "lo")
        engine.answers += listOf("Fine")
        val pieces = mutableListOf<String>()
        val first = session.ask(" Hi ", 10) { pieces += it }
        val second = session.ask("How are you?", 10)
        assertEquals(listOf("Hel", "lo"), pieces)
        assertEquals(listOf("<B><U>Hi<E><A>", "<E><U>How are you?<E><A>"), engine.fed)
        assertEquals(1, engine.resets)
        assertEquals(talk(" Hi ", "Hello", "How are you?", "Fine"), session.messages)
        assertEquals(Answer("Hello", first.generation, 0, fedAgain = false), first)
        assertEquals(2, first.generation.tokens)
        assertFalse(second.fedAgain)
    }

    @Test
    fun `an answer that was cut off goes on from its unfed piece`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("one ", "two ", "three")
        val answer = session.ask("Count", 2)
        assertEquals(Generation.End.LENGTH, answer.generation.end)
        session.ask("On", 10)
        assertEquals("two <E><U>On<E><A>", engine.fed.last())
        assertEquals("<B><U>Count<E><A>one two <E><U>On<E><A>ok", engine.context.toString())
    }

    @Test
    fun `the begin-of-text token is asked for with the first text only`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, chat = Chat(ChatFormat(), addBos = true))
        session.ask("a", 4, Sampling(0.5f))
        session.ask("b", 4)
        assertEquals(listOf(true, false), engine.requests.map { it.addBos })
        assertEquals(listOf(0.5f, 0f), engine.requests.map { it.sampling.temperature })
        assertEquals(listOf(4, 4), engine.requests.map { it.maxNewTokens })
    }

    @Test
    fun `a system prompt is fed, and the session's own goes before the bundle's`() = runTest {
        val engine = FakeEngine()
        session(engine, chat = chat.copy(systemPrompt = "brief")).ask("a", 4)
        ChatSession(engine, chat.copy(systemPrompt = "brief"), tokens, systemPrompt = "kind").ask("a", 4)
        ChatSession(engine, chat.copy(systemPrompt = "brief"), tokens, systemPrompt = null).ask("a", 4)
        assertEquals(listOf("<S>brief<U>a<E><A>", "<S>kind<U>a<E><A>", "<B><U>a<E><A>"), engine.fed)
    }

    @Test
    fun `a conversation with history is fed whole once`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, talk("a", "b"))
        assertTrue(session.ask("c", 4).fedAgain)
        assertFalse(session.ask("d", 4).fedAgain)
        assertEquals(listOf("<B><U>a<E><A>b<E><U>c<E><A>", "<E><U>d<E><A>"), engine.fed)
    }

    @Test
    fun `all is fed again after another session used the engine`() = runTest {
        val engine = FakeEngine()
        val one = session(engine)
        val other = session(engine)
        one.ask("a", 4)
        other.ask("x", 4)
        assertTrue(one.ask("b", 4).fedAgain)
        assertEquals("<B><U>a<E><A>ok<E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `all is fed again after a rewind, and the answer is new after regenerate`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        session.ask("a", 4)
        session.ask("b", 4)
        session.rewind(2)
        engine.answers += listOf("edited")
        assertTrue(session.ask("B", 4).fedAgain)
        assertEquals(talk("a", "ok", "B", "edited"), session.messages)
        engine.answers += listOf("another")
        assertTrue(session.regenerate(4).fedAgain)
        assertEquals(talk("a", "ok", "B", "another"), session.messages)
        assertEquals("<B><U>a<E><A>ok<E><U>B<E><A>another", engine.context.toString())
        session.rewind(4)
        assertFalse("nothing was rewound", session.ask("c", 4).fedAgain)
        assertThrows(IllegalArgumentException::class.java) { session.rewind(7) }
    }

    @Test
    fun `a question without answer can be answered or replaced`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, talk("a", "b", "lost"))
        session.regenerate(4)
        assertEquals(talk("a", "b", "lost", "ok"), session.messages)
        session.rewind(3)
        session.ask("instead", 4)
        assertEquals(talk("a", "b", "instead", "ok"), session.messages)
        assertEquals("<B><U>a<E><A>b<E><U>instead<E><A>ok", engine.context.toString())
    }

    @Test
    fun `a stop string ends the answer, is not shown, and is not left in the context`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("yes S", "TO", "P and", " more")
        val shown = StringBuilder()
        val answer = session.ask("a", 10) { shown.append(it) }
        assertEquals("yes ", shown.toString())
        assertEquals("yes ", answer.text)
        assertEquals(Generation.End.MODEL, answer.generation.end)
        assertTrue(session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A>yes<E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `what was held back is shown at the end`() = runTest {
        val engine = FakeEngine()
        engine.answers += listOf("yes", " ST")
        val shown = mutableListOf<String>()
        assertEquals("yes ST", session(engine).ask("a", 10) { shown += it }.text)
        assertEquals(listOf("yes", " ", "ST"), shown)
    }

    @Test
    fun `an empty answer is an answer`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += emptyList<String>()
        assertEquals("", session.ask("a", 10).text)
        assertEquals(talk("a", ""), session.messages)
        assertFalse(session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A><E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `a blank message is refused`() = runTest {
        val session = session(FakeEngine())
        val error = runCatching { session.ask(" \n", 4) }.exceptionOrNull()
        assertTrue(error is IllegalArgumentException)
        assertTrue(session.messages.isEmpty())
    }

    @Test
    fun `an end token as first token ends the answer although the runner goes on`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("<E>", "<U>", "nonsense", " of a model that talks to itself")
        val shown = mutableListOf<String>()
        val answer = session.ask("a", 10) { shown += it }
        assertEquals(emptyList<String>(), shown)
        assertEquals("", answer.text)
        assertEquals(Generation.End.MODEL, answer.generation.end)
        assertTrue("the context is spoilt", session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A><E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `an end token as first token is not fed twice, whether the runner fed it or not`() = runTest {
        for (maxNewTokens in 1..2) { // at 1 the end token is left unfed
            val engine = FakeEngine()
            val session = session(engine)
            engine.answers += listOf("<E>")
            assertEquals("", session.ask("a", maxNewTokens).text)
            session.ask("b", 10)
            assertEquals("<B><U>a<E><A><E><U>b<E><A>ok", engine.context.toString())
        }
    }

    @Test
    fun `an end token as last piece is fed once`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("yes", "<E>")
        val answer = session.ask("a", 10)
        assertEquals("yes", answer.text)
        assertEquals(Generation.End.MODEL, answer.generation.end)
        assertFalse(session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A>yes<E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `an end token that is also a stop string spoils nothing`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, chat = chat.copy(stopStrings = listOf("<E>")))
        engine.answers += listOf("yes", "<E>")
        assertEquals("yes", session.ask("a", maxNewTokens = 2).text)
        assertFalse(session.ask("b", 10).fedAgain)
    }

    @Test
    fun `oldest turns are left out when a question does not fit`() = runTest {
        val engine = FakeEngine(capacity = 80)
        val session = session(engine)
        val dropped = (1..8).map { session.ask("question $it", 10).droppedTurns }
        assertEquals(0, dropped.first())
        assertEquals(dropped.sorted(), dropped)
        assertTrue(dropped.last() in 4..7)
        assertEquals("all messages are kept", 16, session.messages.size)
        val rest = session.messages.drop(2 * dropped.last())
        assertEquals(format.render(rest.dropLast(1)) + "ok", engine.context.toString())
    }

    @Test
    fun `turns that were left out stay left out`() = runTest {
        val engine = FakeEngine(capacity = 60)
        val session = session(engine)
        session.ask("a".repeat(30), 10)
        assertEquals(1, session.ask("b".repeat(20), 10).droppedTurns)
        session(engine).ask("x", 10)
        assertEquals(1, session.ask("c", 10).droppedTurns)
    }

    @Test
    fun `a question that never fits changes nothing`() = runTest {
        val engine = FakeEngine(capacity = 60)
        val session = session(engine)
        session.ask("a", 10)
        session.ask("b", 10)
        assertEquals(Problem.PromptTooLong, problemOf { session.ask("c".repeat(60), 10) })
        assertEquals(talk("a", "ok", "b", "ok"), session.messages)
        val answer = session.ask("c", 10)
        assertEquals(0, answer.droppedTurns)
        assertTrue(answer.fedAgain)
    }

    @Test
    fun `a question too long as the first changes nothing`() = runTest {
        val session = session(FakeEngine(capacity = 60))
        assertEquals(Problem.PromptTooLong, problemOf { session.ask("c".repeat(60), 10) })
        assertTrue(session.messages.isEmpty())
    }

    @Test
    fun `after the context was full there is room for an answer again`() = runTest {
        val engine = FakeEngine(capacity = 120)
        val session = session(engine)
        session.ask("a", 10)
        session.ask("b", 10)
        engine.answers += List(50) { "more " }
        val full = session.ask("c", 100)
        assertEquals(Generation.End.CONTEXT, full.generation.end)
        assertEquals(0, full.droppedTurns)
        val next = session.ask("d", 10)
        assertEquals(3, next.droppedTurns)
        assertEquals("<B><U>d<E><A>ok", engine.context.toString())
        assertEquals(3, session.ask("e", 10).droppedTurns)
    }

    @Test
    fun `a failure before the answer takes the question back`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        session.ask("a", 10)
        engine.beforePiece = { throw EngineException(Problem.EngineFailed("x")) }
        assertEquals(Problem.EngineFailed("x"), problemOf { session.ask("b", 10) })
        assertEquals(talk("a", "ok"), session.messages)
        engine.beforePiece = {}
        assertTrue(session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A>ok<E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `a failure within the answer keeps what was shown`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("one ", "two")
        engine.beforePiece = { if (it == 1) throw EngineException(Problem.BrokenText) }
        assertEquals(Problem.BrokenText, problemOf { session.ask("a", 10) })
        assertEquals(talk("a", "one "), session.messages)
        engine.beforePiece = {}
        session.ask("b", 10)
        assertEquals("<B><U>a<E><A>one<E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `a failed regenerate keeps the answer of before`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        session.ask("a", 10)
        engine.beforePiece = { throw EngineException(Problem.BrokenText) }
        problemOf { session.regenerate(10) }
        assertEquals(talk("a", "ok"), session.messages)
    }

    @Test
    fun `an exception of the caller's onText comes out`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        try {
            session.ask("a", 10) { error("screen is gone") }
            fail()
        } catch (error: IllegalStateException) {
            assertEquals("screen is gone", error.message)
        }
        assertEquals(talk("a", "ok"), session.messages)
        assertTrue(session.ask("b", 10).fedAgain)
    }

    @Test
    fun `stop keeps the answer so far, and the context stays good`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("one ", "two ", "three")
        engine.beforePiece = { if (it == 1) engine.stop() }
        val answer = session.ask("a", 10)
        assertEquals("one two ", answer.text)
        assertEquals(Generation.End.STOPPED, answer.generation.end)
        engine.beforePiece = {}
        assertFalse(session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A>one two <E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `cancelling stops the engine, keeps what was shown, and the context stays good`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("one ", "two ", "three")
        val shown = StringBuilder()
        var job: Job? = null
        engine.beforePiece = { if (it == 2) job?.cancel() }
        job = launch { session.ask("a", 10) { shown.append(it) } }
        job.join()
        assertTrue(job.isCancelled)
        assertEquals(1, engine.stops)
        assertEquals("one two ", shown.toString())
        assertEquals(talk("a", "one two "), session.messages)
        engine.beforePiece = {}
        assertFalse(session.ask("b", 10).fedAgain)
        assertEquals("<B><U>a<E><A>one two <E><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `cancelling before the first text takes the question back`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        var job: Job? = null
        engine.beforePiece = { job?.cancel() }
        job = launch { session.ask("a", 10) }
        job.join()
        assertTrue(session.messages.isEmpty())
        engine.beforePiece = {}
        session.ask("b", 10)
        assertEquals("<B><U>b<E><A>ok", engine.context.toString())
    }

    @Test
    fun `who waits for the engine does not stop the others when cancelled`() = runTest {
        val engine = FakeEngine()
        val one = session(engine)
        val other = session(engine)
        val gate = CompletableDeferred<Unit>()
        engine.beforePiece = { gate.await() }
        val running = async { one.ask("a", 10) }
        yield()
        val waiting = launch { other.ask("x", 10) }
        yield()
        waiting.cancelAndJoin()
        assertEquals(0, engine.stops)
        assertTrue(other.messages.isEmpty())
        assertThrows(IllegalStateException::class.java) { one.rewind(0) }
        gate.complete(Unit)
        assertEquals("ok", running.await().text)
        assertFalse(one.ask("b", 10).fedAgain)
    }

    @Test
    fun `sessions that ask at once do not mix`() = runTest {
        val engine = FakeEngine()
        engine.beforePiece = { yield() }
        val sessions = List(4) { session(engine) }
        sessions.map { session -> launch { repeat(3) { session.ask("a", 10) } } }.forEach { it.join() }
        for (session in sessions) assertEquals(talk("a", "ok", "a", "ok", "a", "ok"), session.messages)
    }

    @Test
    fun `messages must begin with the user and alternate`() {
        val wrong = listOf(Message(Role.ASSISTANT, "a"))
        assertThrows(IllegalArgumentException::class.java) { session(FakeEngine(), wrong) }
    }

    @Test
    fun `whatever happens, the model sees exactly the conversation`() = runTest {
        repeat(60) { seed ->
            val random = Random(seed)
            val engine = FakeEngine(capacity = if (seed % 3 == 0) 150 else 100_000)
            val sessions = List(2) { session(engine) }
            var current = sessions[0]
            engine.onFed = { context ->
                // Some end of the conversation: its oldest turns may be left out.
                val messages = current.messages
                val ends = (0..messages.size / 2).map { format.render(trimmed(messages.drop(2 * it))) }
                val expected = if (seed % 3 == 0) ends else ends.take(1)
                assertTrue("seed $seed: $context\n$expected", context in expected)
            }
            repeat(30) {
                current = sessions.random(random)
                engine.beforePiece = {}
                when (random.nextInt(8)) {
                    0 -> engine.beforePiece = { if (it == 1) throw EngineException(Problem.BrokenText) }
                    1 -> engine.beforePiece = { if (it == 1) engine.stop() }
                    2 -> current.rewind(random.nextInt(current.messages.size / 2 + 1) * 2)
                }
                engine.answers.clear()
                engine.answers += List(random.nextInt(5)) {
                    listOf("a", "b", "STOP", "ST", "<E>", "c").random(random)
                }
                try {
                    if (random.nextInt(5) == 0 && current.messages.isNotEmpty()) {
                        current.regenerate(3)
                    } else {
                        current.ask("q${random.nextInt(100)}", random.nextInt(1, 5))
                    }
                } catch (error: EngineException) {
                    assertTrue("seed $seed", error.problem in listOf(Problem.BrokenText, Problem.PromptTooLong))
                } catch (error: CancellationException) {
                    throw AssertionError(error)
                }
            }
        }
    }

    private fun trimmed(messages: List<Message>) = messages.map { it.copy(text = it.text.trim()) }
}
