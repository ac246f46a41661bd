package org.etpipeline.core

import java.util.Locale
import org.junit.Assert.assertEquals
import org.junit.Test

class SentencesTest {
    /** What is read aloud of a text that comes letter by letter, and what at its end. */
    private fun read(text: String, locale: Locale = Locale.ENGLISH): List<String> {
        val sentences = Sentences(locale)
        val coming = text.indices.map { sentences.ended(text.take(it)) }.filter { it.isNotEmpty() }
        return coming + sentences.rest(text)
    }

    @Test
    fun `each sentence is read once, when the next one begins`() {
        assertEquals(
            listOf("It is Rome.", "Rome lies on the Tiber!", "Shall I say more?"),
            read("It is Rome. Rome lies on the Tiber! Shall I say more?"),
        )
    }

    @Test
    fun `other languages end their sentences otherwise`() {
        assertEquals(listOf("東京です。", "人口は約1400万人です。"), read("東京です。人口は約1400万人です。", Locale.JAPANESE))
        // The JDK's own rules do not know the Arabic question mark; Android's do.
        assertEquals(listOf("نعم.", "هل تريد المزيد؟"), read("نعم. هل تريد المزيد؟", Locale.forLanguageTag("ar")))
    }

    @Test
    fun `marks are not read`() {
        assertEquals("Count words\nIt is fast.", Sentences(Locale.ENGLISH).rest("## Count **words**\n\nIt is `fast`."))
        assertEquals("1. one\n2. two", Sentences(Locale.ENGLISH).rest("1. one\n2. *two*"))
    }

    @Test
    fun `nothing is read twice, and nothing left out`() {
        val text = "One. Two and a half. Three"
        val sentences = Sentences(Locale.ENGLISH)
        val coming = listOf(7, 7, 22, 26).map { sentences.ended(text.take(it)) }
        assertEquals(listOf("One.", "", "Two and a half.", ""), coming)
        assertEquals(listOf("Three", ""), listOf(sentences.rest(text), sentences.rest(text)))
    }

    @Test
    fun `what was there before is not read`() {
        val text = "One. Two and a half. Three"
        val sentences = Sentences(Locale.ENGLISH, done = 5)
        assertEquals(listOf("", "Two and a half."), listOf(7, 22).map { sentences.ended(text.take(it)) })
        assertEquals("Three", Sentences(Locale.ENGLISH, sentences.done).rest(text))
    }
}
