package org.etpipeline.core

import kotlinx.coroutines.Job
import kotlinx.coroutines.launch
import kotlinx.coroutines.test.runTest
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** An answer that was cut goes on, whatever the engine was used for meanwhile. */
class GoOnTest {
    private val format = ChatFormat(
        startToUser = "<U>",
        userToAssistant = "<A>",
        assistantToUser = "<E><U>",
        userToPastAssistant = "<A>",
    )

    private fun session(engine: LlmEngine, vararg texts: String) = ChatSession(
        engine,
        Chat(format),
        listOf("<U>", "<A>", "<E>"),
        texts.mapIndexed { i, text -> Message(if (i % 2 == 0) Role.USER else Role.ASSISTANT, text) },
    )

    @Test
    fun `only what was not fed is fed`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("one ", "two ")
        engine.answers += listOf("three ", "four")
        session.ask("count", 2)
        val shown = StringBuilder()
        val whole = session.goOn(10) { shown.append(it) }
        assertEquals("three four", shown.toString())
        assertEquals("one two three four", whole.text)
        assertFalse(whole.fedAgain)
        assertEquals(Generation.End.MODEL, whole.generation.end)
        assertEquals("two ", engine.fed.last())
        assertFalse(session.ask("on", 10).fedAgain)
        assertEquals("<U>count<A>one two three four<E><U>on<A>ok", engine.context.toString())
    }

    @Test
    fun `more than once`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        repeat(4) { engine.answers += listOf("$it ") }
        session.ask("count", 1)
        repeat(3) { session.goOn(1) }
        assertEquals("0 1 2 3 ", session.messages.last().text)
        assertEquals("<U>count<A>0 1 2 ", engine.context.toString())
    }

    @Test
    fun `after a restart, and after others have used the engine, the answer is fed as far as it came`() = runTest {
        val engine = FakeEngine()
        engine.answers += listOf("three")
        assertEquals("one two three", session(engine, "a", "b", "count", "one two ").goOn(10).text)
        assertEquals("<U>a<A>b<E><U>count<A>one two ", engine.fed.single())

        val session = session(engine)
        engine.answers += listOf("one ", "two ")
        session.ask("count", 2)
        session(engine).ask("x", 10)
        engine.answers += listOf("three")
        assertEquals("one two three", session.goOn(10).text)
        assertEquals("<U>count<A>one two three", engine.context.toString())
    }

    @Test
    fun `half a character at the end is written anew`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("Hi ", "\uFFFD")
        session.ask("a", 2)
        engine.answers += listOf("😀")
        assertEquals("Hi 😀", session.goOn(10).text)
        assertEquals("<U>a<A>Hi ", engine.fed.last())
    }

    @Test
    fun `when the context is full the oldest turns make room`() = runTest {
        val engine = FakeEngine(capacity = 60)
        val session = session(engine)
        session.ask("a".repeat(20), 10)
        engine.answers += List(20) { "more " }
        assertEquals(Generation.End.CONTEXT, session.ask("b", 100).generation.end)
        val begun = session.messages.last().text
        val whole = session.goOn(100)
        assertEquals(begun + "ok", whole.text)
        assertEquals(1, whole.droppedTurns)
        assertEquals("<U>b<A>" + begun + "ok", engine.context.toString())
    }

    @Test
    fun `a failure or a cancellation leaves what there was`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, "count", "one ")
        engine.beforePiece = { throw EngineException(Problem.BrokenText) }
        assertTrue(runCatching { session.goOn(10) }.isFailure)
        assertEquals("one ", session.messages.last().text)
        var job: Job? = null
        engine.beforePiece = { if (it == 1) job?.cancel() }
        engine.answers += listOf("two ", "three ")
        job = launch { session.goOn(10) }
        job.join()
        assertEquals("one two ", session.messages.last().text)
        engine.beforePiece = {}
        engine.answers += listOf("three")
        assertEquals("one two three", session.goOn(10).text)
        assertEquals("<U>count<A>one two three", engine.context.toString())
    }

    @Test
    fun `there must be an answer`() = runTest {
        assertTrue(runCatching { session(FakeEngine()).goOn(10) }.exceptionOrNull() is IllegalStateException)
        assertTrue(runCatching { session(FakeEngine(), "a").goOn(10) }.exceptionOrNull() is IllegalStateException)
    }
}
