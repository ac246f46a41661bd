package org.etpipeline.core

import org.junit.Assert.assertEquals
import org.junit.Test

class TasksTest {
    private val languages = mapOf("language" to listOf("French", "German"))
    private val task = Task("T", "To {language}: {text} {unknown} {}", 9, languages)

    @Test
    fun `fill takes the first choice unless told otherwise`() {
        assertEquals("To French: Hi {unknown} {}", task.fill("Hi"))
        assertEquals("To German: Hi {unknown} {}", task.fill("Hi", mapOf("language" to "German")))
    }

    @Test
    fun `fill replaces in one pass`() {
        assertEquals("To French: {language} \$1 \\ {text} {unknown} {}", task.fill("{language} \$1 \\ {text}"))
        assertEquals("To {text}: x {unknown} {}", task.fill("x", mapOf("language" to "{text}")))
    }

    @Test
    fun `what the user types cannot be replaced by a choice`() =
        assertEquals("a", Task("T", "{text}", 9).fill("a", mapOf("text" to "b")))

    @Test
    fun `names of every script`() =
        assertEquals("x y", Task("T", "{größe_2} {語}", 9).fill("", mapOf("größe_2" to "x", "語" to "y")))

    @Test
    fun `a name without choices stays`() =
        assertEquals("{a}", Task("T", "{a}", 9, mapOf("a" to emptyList())).fill("x"))

    @Test
    fun `replies are the lines without their decoration`() {
        assertEquals(listOf("Yes.", "No.", "Maybe."), splitReplies("Yes.\nNo.\nMaybe."))
        assertEquals(listOf("Yes", "No", "Maybe"), splitReplies("1. Yes\r\n 2) \"No\"\n\n(3) “Maybe”\n4. Later"))
        assertEquals(listOf("Yes", "No"), splitReplies("- Yes\n• No\n* Yes\n-  "))
        val plain = listOf("5 pm is fine", "-5 degrees", "I'm 'here'")
        assertEquals(plain, splitReplies(plain.joinToString("\n")))
        assertEquals(listOf("a", "b", "c"), splitReplies("a\nb\na\nc\nd"))
        assertEquals(emptyList<String>(), splitReplies(" \n\n"))
    }
}
