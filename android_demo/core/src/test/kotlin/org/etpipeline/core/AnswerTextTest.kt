package org.etpipeline.core

import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class AnswerTextTest {
    private val tokens = listOf("<|end|>", "<|user|>", "<|end|>2", "")

    private fun all(pieces: List<String>, stops: List<String>, tokens: List<String> = this.tokens): String {
        val answer = AnswerText(stops, tokens)
        val shown = StringBuilder()
        for (piece in pieces) {
            val visible = answer.add(piece)
            assertFalse("half a character is shown", visible.isNotEmpty() && visible.last().isHighSurrogate())
            shown.append(visible)
            assertEquals(shown.toString(), answer.text)
        }
        shown.append(answer.finish())
        assertEquals(shown.toString(), answer.text)
        assertEquals("", answer.finish())
        return answer.text
    }

    /** What must be visible of a whole text, written without regard for speed. */
    private fun expected(text: String, stops: List<String>, tokens: List<String> = this.tokens): String {
        var plain = ""
        var rest = text
        while (rest.isNotEmpty()) {
            val token = tokens.filter { it.isNotEmpty() && it !in stops && rest.startsWith(it) }
                .maxByOrNull { it.length }
            if (token == null) plain += rest.first()
            rest = rest.drop(token?.length ?: 1)
        }
        val found = stops.filter { it.isNotEmpty() && it in plain }
            .minWithOrNull(compareBy({ plain.indexOf(it) + it.length }, { plain.indexOf(it) }))
        return if (found == null) plain else plain.substringBefore(found)
    }

    @Test
    fun `plain text is shown at once`() {
        val answer = AnswerText(listOf("STOP"), tokens)
        assertEquals("Hello", answer.add("Hello"))
        assertEquals(" world", answer.add(" world"))
        assertFalse(answer.stopped)
    }

    @Test
    fun `special tokens are hidden, also when they are glued to text`() {
        assertEquals("ab", all(listOf("a<|end|>b"), emptyList()))
        assertEquals("ab", all(listOf("a<|e", "nd|", ">b"), emptyList()))
        assertEquals("a<|end|b", all(listOf("a<|end|b"), emptyList()))
        assertEquals("a b", all(listOf("a<|end|>2 b"), emptyList()))
    }

    @Test
    fun `a stop string ends the answer and is not shown`() {
        val answer = AnswerText(listOf("\nUser:"), emptyList())
        assertEquals("Yes.", answer.add("Yes.\n"))
        assertEquals("", answer.add("Us"))
        assertEquals("", answer.add("er: more"))
        assertTrue(answer.stopped)
        assertEquals("", answer.add("still more"))
        assertEquals("", answer.finish())
        assertEquals("Yes.", answer.text)
    }

    @Test
    fun `what only looked like a stop string is shown later`() {
        val answer = AnswerText(listOf("\nUser:"), emptyList())
        assertEquals("a", answer.add("a\nUs"))
        assertEquals("\nUsual", answer.add("ual"))
        assertEquals("", answer.add("\nU"))
        assertEquals("\nU", answer.finish())
        assertFalse(answer.stopped)
    }

    @Test
    fun `the stop string that is complete first counts`() {
        assertEquals("xa", all(listOf("xabcd"), listOf("abcd", "bc")))
        assertEquals("x", all(listOf("xabcd"), listOf("abc", "bc")))
    }

    @Test
    fun `a stop string that is a special token ends the answer`() =
        assertEquals("a", all(listOf("a<|us", "er|>b"), listOf("<|user|>")))

    @Test
    fun `a surrogate pair is never split`() {
        val answer = AnswerText(listOf("😀stop"), emptyList())
        assertEquals("a", answer.add("a\ud83d"))
        assertEquals("😁", answer.add("\ude01"))
        assertEquals("", answer.add("\ud83d"))
        assertEquals("", answer.add("\ude00"))
        assertEquals("😀", answer.finish())
        assertEquals("half a character at the end is dropped", "a", all(listOf("a\ud83d"), emptyList()))
    }

    @Test
    fun `any split into pieces gives the same visible text`() {
        val random = Random(20240711)
        val parts = listOf("a", "b", "ab", "\n", "<|end|>", "<|user|>", "<|", "|>", "end", "2", "ST", "OP", "😀", "😁")
        val stopStrings = listOf("STOP", "TO", "ab\n", "😁a", "<|end|>", "", "aba", "b2")
        repeat(8_000) {
            val text = List(random.nextInt(12)) { parts.random(random) }.joinToString("")
            val stops = List(random.nextInt(4)) { stopStrings.random(random) }
            val pieces = mutableListOf<String>()
            var rest = text
            while (rest.isNotEmpty()) {
                val length = random.nextInt(1, 4).coerceAtMost(rest.length)
                pieces += rest.take(length)
                rest = rest.drop(length)
            }
            assertEquals("$stops $pieces", expected(text, stops), all(pieces, stops))
        }
    }

    @Test
    fun `nothing that was shown begins a stop string that comes`() {
        val random = Random(7)
        repeat(5_000) {
            val stop = List(random.nextInt(1, 5)) { "ab".random(random) }.joinToString("")
            val text = List(random.nextInt(20)) { "ab".random(random) }.joinToString("")
            val answer = AnswerText(listOf(stop), emptyList())
            text.forEach { answer.add(it.toString()) }
            answer.finish()
            assertFalse(stop in answer.text)
            assertEquals(stop in text, answer.stopped)
            assertEquals(text.substringBefore(stop), answer.text)
        }
    }
}
