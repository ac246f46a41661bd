package org.etpipeline.core

import java.io.File
import kotlinx.coroutines.test.runTest
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** What was fed with one adapter is no context for another one. */
class ChatAdapterTest {
    private val format = ChatFormat(
        startToUser = "<U>",
        userToAssistant = "<A>",
        assistantToUser = "<E><U>",
        userToPastAssistant = "<A>",
    )
    private val formal = File("formal.ptd")
    private val engine = FakeEngine()

    private fun session(adapter: File?, messages: List<Message> = emptyList()) =
        ChatSession(engine, Chat(format), listOf("<U>", "<A>", "<E>"), messages, adapter = adapter)

    @Test
    fun `a running chat is fed anew where its adapter changes, and goes on where it stays`() = runTest {
        val plain = session(null)
        plain.ask("a", 10)
        plain.ask("b", 10)
        assertEquals(listOf("<U>a<A>", "<E><U>b<A>"), engine.fed)
        val adapted = session(formal, plain.messages)
        assertTrue(adapted.ask("c", 10).fedAgain)
        assertEquals("<U>a<A>ok<E><U>b<A>ok<E><U>c<A>", engine.fed.last())
        assertFalse(adapted.ask("d", 10).fedAgain)
        assertEquals("<E><U>d<A>", engine.fed.last())
        assertEquals(formal, engine.adapter)
    }

    @Test
    fun `chats with and without it share the engine, and each has its own`() = runTest {
        val (plain, adapted) = session(null) to session(formal)
        val with = mutableListOf<File?>()
        engine.onFed = { with += engine.adapter }
        for (session in listOf(plain, adapted, adapted, plain)) session.ask("a", 10)
        assertEquals(listOf(null, formal, formal, null), with)
        assertEquals("<U>a<A>ok<E><U>a<A>", engine.fed.last())
    }

    @Test
    fun `one that is refused leaves the chat as it was`() = runTest {
        val broken = object : LlmEngine by engine {
            override suspend fun adapt(adapter: File?): Unit = throw EngineException(Problem.ForeignAdapter("formal.ptd"))
        }
        val session = ChatSession(broken, Chat(format), emptyList(), adapter = formal)
        val problem = runCatching { session.ask("a", 10) }.exceptionOrNull() as EngineException
        assertEquals(Problem.ForeignAdapter("formal.ptd"), problem.problem)
        assertEquals(emptyList<Message>(), session.messages)
        assertEquals(emptyList<String>(), engine.fed)
    }
}
