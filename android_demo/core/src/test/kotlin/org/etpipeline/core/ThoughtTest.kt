package org.etpipeline.core

import kotlinx.coroutines.test.runTest
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class ThoughtTest {
    private val format = ChatFormat(
        startToUser = "<U>",
        userToAssistant = "<A>",
        assistantToUser = "<E><U>",
        userToPastAssistant = "<A>",
    )
    private val opening = format.copy(userToAssistant = "<A><think>\n")
    private val tokens = listOf("<U>", "<A>", "<E>", "<think>", "</think>")

    private fun session(engine: LlmEngine, format: ChatFormat = this.format, messages: List<Message> = emptyList()) =
        ChatSession(engine, Chat(format), tokens, messages)

    @Test
    fun `an answer has two parts`() {
        assertEquals(Parts("", "Hello <think>", false), partsOf("Hello <think>"))
        assertEquals(Parts("Hm, what?", "Yes.", false), partsOf("<think>\nHm, what?\n</think>\n\nYes."))
        assertEquals(Parts("", "Yes.", false), partsOf("<think>\n\n</think>\n\nYes."))
        assertEquals(Parts("Hm", "", true), partsOf("\n<think>\nHm"))
        assertEquals(Parts("Hm", "", true), partsOf("<think>Hm\n</thi"))
        assertEquals(Parts("", "", true), partsOf("<think>"))
        assertEquals(Parts("a", "b </think> c", false), partsOf("<think>a</think>b </think> c"))
    }

    @Test
    fun `a switch for thinking chooses between two forms of a chat`() {
        val quiet = format.copy(userToAssistant = "<A><think></think>")
        val chat = Chat(format, thinking = Thinking(default = true, other = quiet))
        assertEquals(listOf(format, format, quiet), listOf(null, true, false).map { chat.thatThinks(it).segments })
        val silent = Chat(quiet, thinking = Thinking(default = false, other = format))
        assertEquals(listOf(quiet, format, quiet), listOf(null, true, false).map { silent.thatThinks(it).segments })
        assertEquals("no switch", Chat(format), Chat(format).thatThinks(false))
    }

    @Test
    fun `a thought is shown, but not fed again`() = runTest {
        val engine = FakeEngine()
        val session = session(engine)
        engine.answers += listOf("<think>", "\nHm", "</think>", "\n\nYes")
        val shown = StringBuilder()
        val answer = session.ask("a", 10) { shown.append(it) }
        assertEquals("<think>\nHm</think>\n\nYes", answer.text)
        assertEquals(answer.text, shown.toString())
        assertTrue(session.ask("b", 10).fedAgain)
        assertEquals("<U>a<A>Yes<E><U>b<A>ok", engine.context.toString())
        assertFalse("nothing was thought", session.ask("c", 10).fedAgain)
    }

    @Test
    fun `a thought that the template opens has its beginning, and is not fed again`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, opening)
        engine.answers += listOf("Hm", "</think>", "Yes")
        val shown = StringBuilder()
        assertEquals("<think>Hm</think>Yes", session.ask("a", 10) { shown.append(it) }.text)
        assertEquals("<think>Hm</think>Yes", shown.toString())
        session.ask("b", 10)
        assertEquals("<U>a<A>Yes<E><U>b<A><think>\nok", engine.context.toString())
    }

    @Test
    fun `an answer that never came is empty when it is fed`() = runTest {
        val engine = FakeEngine()
        val session = session(engine, opening, listOf(Message(Role.USER, "a"), Message(Role.ASSISTANT, "<think>Hm")))
        session.ask("b", 10)
        assertEquals("<U>a<A><E><U>b<A><think>\nok", engine.context.toString())
    }

    @Test
    fun `a thought that was cut goes on as it was`() = runTest {
        val cut = listOf(Message(Role.USER, "a"), Message(Role.ASSISTANT, "<think>Hm"))
        for ((form, fed) in listOf(format to "<U>a<A><think>Hm", opening to "<U>a<A><think>\nHm")) {
            val engine = FakeEngine()
            val session = session(engine, form, cut)
            engine.answers += listOf(" yes", "</think>", "Yes")
            assertEquals("<think>Hm yes</think>Yes", session.goOn(10).text)
            assertEquals(fed, engine.fed.single())
        }
    }
}
