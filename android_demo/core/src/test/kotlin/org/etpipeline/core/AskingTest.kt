package org.etpipeline.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class AskingTest {
    private val talk = listOf(
        Message(Role.USER, "What is the capital of Italy?"),
        Message(Role.ASSISTANT, "Rome \"of course\".\n\u0000 Zoë \uD83D\uDE00"),
        Message(Role.USER, "And of Spain?"),
    )

    private fun refused(json: String): Problem =
        assertThrows(EngineException::class.java) { AskRequest.read(json) }.problem

    private fun said(vararg messages: Pair<String, String>) = messages.joinToString(",", "{\"messages\":[", "]}") {
        "{\"role\":\"${it.first}\",\"text\":\"${it.second}\"}"
    }

    @Test
    fun `a request arrives as it was sent`() {
        val request = AskRequest(talk, ChatSettings(systemPrompt = "Be brief.", temperature = 0.5f, maxNewTokens = 99))
        assertEquals(request, AskRequest.read(request.toJson()))
        assertEquals(AskRequest(talk.take(1)), AskRequest.read(said("user" to "What is the capital of Italy?")))
    }

    @Test
    fun `what a newer app says beside it is passed over, however it looks`() {
        val deep = "[".repeat(30_000) + "]".repeat(30_000)
        val json = """{"tools":$deep,"messages":[{"role":"user","text":"Hi","image":null}],"settings":{"top_a":0.3}}"""
        assertEquals(AskRequest(listOf(Message(Role.USER, "Hi"))), AskRequest.read(json))
    }

    @Test
    fun `what is no conversation is refused`() {
        val bad = mapOf(
            "" to "",
            "17" to "",
            "{}" to "messages",
            "{\"messages\":null}" to "messages",
            "{\"messages\":[]}" to "the last message is not the user's",
            said("system" to "Hi") to "system",
            said("user" to "Hi", "assistant" to "Hello") to "the last message is not the user's",
            said("user" to "Hi", "user" to "Hi") to "take turns",
            said("assistant" to "Hello", "user" to "Hi") to "the first message is not the user's",
            said("user" to " ") to "a message is blank",
            said("user" to "Hi", "assistant" to "", "user" to "Hi") to "a message is blank",
            "{\"messages\":[{\"role\":\"user\",\"text\":\"Hi\"}],\"settings\":{\"temperature\":\"hot\"}}" to "",
        )
        for ((json, detail) in bad) {
            val problem = refused(json)
            assertTrue("$json: $problem", problem is Problem.BadQuestion && detail in problem.detail)
        }
    }

    @Test
    fun `what is too long is refused before it is read`() {
        val longest = said("user" to "a".repeat(AskRequest.LONGEST - said("user" to "").length))
        assertEquals(AskRequest.LONGEST, longest.length)
        AskRequest.read(longest)
        assertEquals(Problem.QuestionTooLong(65_537, 65_536), refused("$longest "))
    }

    @Test
    fun `settings beyond all bounds come within them`() {
        val json = said("user" to "Hi").dropLast(1) + ",\"settings\":{\"max_new_tokens\":99999,\"temperature\":-5}}"
        val settings = AskRequest.read(json).settings
        assertEquals(ChatSettings.LONGEST_ANSWERS.last, settings.maxNewTokens(256))
        assertEquals(0f, settings.sampling(Sampling(1f)).temperature)
    }

    @Test
    fun `a refusal of a reason that is not known yet is a failure, with its sentence`() {
        val refusal = Refusal.read("""{"reason":"asleep","sentence":"It sleeps."}""")
        assertEquals(Refusal(Refusal.Reason.FAILED, "It sleeps."), refusal)
        for (reason in Refusal.Reason.entries) {
            assertEquals(reason, Refusal.read(Refusal(reason, "No.").toJson()).reason)
        }
    }

    @Test
    fun `the end of an answer arrives as it was sent`() {
        val end = AnswerEnd(Answer("Rome.", Generation(9, 3, 12.5, 20.0, Generation.End.LENGTH), 2, false))
        assertEquals(AnswerEnd(AnswerStats(9, 3, 12.5, 100.0, "LENGTH"), 2), AnswerEnd.read(end.toJson()))
    }

    @Test
    fun `every reason that another app can be given has a problem behind it`() {
        val problems = listOf(
            Problem.AskingNotAllowed, Problem.AskingIsOff, Problem.TooManyQuestions(4), Problem.QuestionTooLong(9, 8),
            Problem.PromptTooLong, Problem.BadQuestion(""), Problem.NewerQuestion(2, 1), Problem.NoModel,
            Problem.BrokenText,
        )
        val reasons = problems.map { Refusal.of(it, "No.").reason }.toSet()
        assertEquals(Refusal.Reason.entries.toSet() - Refusal.Reason.NOT_THERE, reasons)
    }
}
