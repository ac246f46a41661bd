package org.etpipeline.core

import kotlinx.serialization.json.Json
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class ConversationTest {
    private val stats = AnswerStats(3, 4, 5.0, 6.0, "MODEL")
    private val chat = Conversation(
        id = "1",
        bundle = "tiny",
        title = "Où est le Café? 1/2",
        updated = 7,
        turns = listOf(
            SavedMessage(Role.USER, "Où est le **Café**?"),
            SavedMessage(Role.ASSISTANT, "<think>\nHm.\n</think>\n\nIn der Straße.", stats, thoughtMs = 900),
        ),
    )

    @Test
    fun `a chat of before there were settings is still read, and one without says nothing of them`() {
        val old = """{"id": "1", "bundle": "b", "title": "t", "updated": 5, "turns": [{"role": "user", "text": "a"}]}"""
        val read = Json.decodeFromString(Conversation.serializer(), old)
        assertEquals(ChatSettings(), read.settings)
        assertFalse("settings" in read.toJson())
        val changed = read.copy(settings = ChatSettings(systemPrompt = "Be brief.", topK = 40))
        assertEquals(changed, Json.decodeFromString(Conversation.serializer(), changed.toJson()))
    }

    @Test
    fun `what is not set is the model's own`() {
        val own = Sampling(0.7f, 0.9f, 40, 0.05f, 1.1f)
        assertEquals(own, ChatSettings().sampling(own))
        assertEquals(own.copy(temperature = 0f), ChatSettings(temperature = 0f).sampling(own))
        assertEquals("kind", ChatSettings().systemPrompt("kind"))
        assertEquals("brief", ChatSettings(systemPrompt = "brief").systemPrompt("kind"))
        assertEquals(null, ChatSettings(systemPrompt = "").systemPrompt("kind"))
        assertEquals(64, ChatSettings().maxNewTokens(64))
    }

    @Test
    fun `what no model has of its own is off until it is set`() {
        val own = Sampling(0.7f)
        assertEquals(GenerationRequest(64, own), ChatSettings().request(own, 64))
        val set = ChatSettings(maxNewTokens = 32, frequencyPenalty = 0.5f, presencePenalty = 9f, seed = 7)
        val expected = GenerationRequest(32, own, seed = 7, frequencyPenalty = 0.5f, presencePenalty = 2f)
        assertEquals(expected, set.request(own, 64))
        assertEquals(0f, ChatSettings(frequencyPenalty = Float.NaN).request(own, 64).frequencyPenalty)
        val saved = chat.copy(settings = set)
        assertEquals(saved, Json.decodeFromString(Conversation.serializer(), saved.toJson()))
    }

    @Test
    fun `what a file says beyond all bounds is brought within them`() {
        val wild = ChatSettings(null, Float.NaN, -1f, -3, 9f, Float.POSITIVE_INFINITY, -5)
        val own = Sampling(0.7f, 0.9f, 40, 0.05f, 1.1f)
        assertEquals(Sampling(0.7f, 0.05f, 0, 0.5f, 1.1f), wild.sampling(own))
        assertEquals(16, wild.maxNewTokens(64))
    }

    @Test
    fun `a document has what was said, and not what was thought`() {
        val document = """
            # Où est le Café? 1/2

            ## You

            Où est le **Café**?

            ## tiny

            In der Straße.

        """.trimIndent()
        assertEquals(document, chat.toMarkdown("You", "tiny"))
        assertEquals(chat, Json.decodeFromString(Conversation.serializer(), chat.toJson()))
        assertEquals("Où-est-le-Café-1-2", chat.fileName())
        assertEquals("chat", chat.copy(title = "?/..").fileName())
        assertEquals(40, chat.copy(title = "a".repeat(90)).fileName().length)
    }

    @Test
    fun `a document says which adapter an answer had`() {
        val adapted = chat.copy(turns = chat.turns.dropLast(1) + chat.turns.last().copy(adapter = "formal"))
        assertTrue("## tiny (formal)" in adapted.toMarkdown("You", "tiny"))
        assertEquals(adapted, Json.decodeFromString(Conversation.serializer(), adapted.toJson()))
    }

    @Test
    fun `words are found in title and text, whatever their case and accents`() {
        val text = SearchedText(chat)
        for (query in listOf("", " ", "cafe", "CAFÉ", "strasse", "ou  der", "straß", "e\u0301")) {
            assertTrue(query, ChatSearch(query).finds(text))
        }
        for (query in listOf("tea", "cafe tea", "tiny")) assertFalse(query, ChatSearch(query).finds(text))
    }

    @Test
    fun `an answer that the model did not end can go on`() {
        val answer = SavedMessage(Role.ASSISTANT, "one", stats)
        assertFalse(answer.isCut)
        for (end in listOf("LENGTH", "CONTEXT", "STOPPED")) assertTrue(answer.copy(stats = stats.copy(end = end)).isCut)
        assertTrue(answer.copy(stats = null, unfinished = true).isCut)
        assertFalse(answer.copy(text = " ", stats = stats.copy(end = "LENGTH")).isCut)
        assertFalse(SavedMessage(Role.USER, "one", unfinished = true).isCut)
    }
}
