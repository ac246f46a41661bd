package org.etpipeline.core

import kotlin.random.Random
import kotlin.system.measureTimeMillis
import org.etpipeline.core.Block.Code
import org.etpipeline.core.Block.Heading
import org.etpipeline.core.Block.Item
import org.etpipeline.core.Block.Paragraph
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class MarkdownTest {
    private fun plain(text: String) = listOf(Span(text))
    private fun paragraph(vararg spans: Span) = listOf(Paragraph(spans.toList()))

    @Test
    fun `an answer with everything`() {
        val answer = """
            ## How to **count** ##

            First some words
            on *two* lines.

            - one
            - two, with
              more of it
              1. a part
              2. another `part`
            * three

            ```kotlin
            val a = 2 * 3 * 4

              println(a)
            ```
            Done.
            ---
            Really.
        """.trimIndent()
        val blocks = listOf(
            Heading(2, listOf(Span("How to "), Span("count", bold = true))),
            Paragraph(listOf(Span("First some words\non "), Span("two", italic = true), Span(" lines."))),
            Item(0, "•", plain("one")),
            Item(0, "•", plain("two, with\nmore of it")),
            Item(1, "1.", plain("a part")),
            Item(1, "2.", listOf(Span("another "), Span("part", code = true))),
            Item(0, "•", plain("three")),
            Code("kotlin", "val a = 2 * 3 * 4\n\n  println(a)"),
            Paragraph(plain("Done.")),
            Block.Rule,
            Paragraph(plain("Really.")),
        )
        assertEquals(blocks, readMarkdown(answer))
    }

    @Test
    fun `text without marks stays the same to the letter`() {
        val random = Random(1)
        val letters = "ab cÄ中😀.,:;!?()[]{}<>/=%&'\"\n\n 0123456789"
        repeat(2000) {
            val text = "a" + String(CharArray(random.nextInt(60)) { letters.random(random) })
            if (Regex("""(?m)^[ \t]*\d+[.)][ \t]""").containsMatchIn(text)) return@repeat
            assertEquals(text, listOf(Paragraph(plain(text))), readMarkdown(text))
        }
        val others = listOf("5 * 3 * 2", "snake_case_name", "a ** b", "C:\\new_folder", "#tag", "-5", "1.5", "\n\n a\n")
        for (text in others) {
            assertEquals(paragraph(Span(text)), readMarkdown(text))
        }
        assertEquals(emptyList<Block>(), readMarkdown(""))
    }

    @Test
    fun `marks within one another`() {
        assertEquals(paragraph(Span("a "), Span("b", bold = true, italic = true)), readMarkdown("a ***b***"))
        assertEquals(
            paragraph(Span("b ", bold = true), Span("i", bold = true, italic = true), Span(" c")),
            readMarkdown("**b *i*** c"),
        )
        assertEquals(paragraph(Span("**a", code = true), Span(" b**")), readMarkdown("`**a` b**"))
        assertEquals(paragraph(Span("a ` b", code = true)), readMarkdown("`` a ` b ``"))
        assertEquals(paragraph(Span("*a*")), readMarkdown("\\*a\\*"))
        val both = paragraph(Span("it", italic = true), Span(" and "), Span("b", bold = true))
        assertEquals(both, readMarkdown("_it_ and __b__"))
        assertEquals(paragraph(Span("**a\n\nb**")), readMarkdown("**a\n\nb**"))
        assertEquals(paragraph(Span("[a](https://b.c/d_e_f)")), readMarkdown("[a](https://b.c/d_e_f)"))
    }

    @Test
    fun `what has begun is shown as if it were closed, while more may come`() {
        assertEquals(paragraph(Span("a "), Span("bol", bold = true)), readMarkdown("a **bol", isGrowing = true))
        assertEquals(paragraph(Span("a **bol")), readMarkdown("a **bol"))
        assertEquals(listOf(Code("py", "x = ")), readMarkdown("```py\nx = ", isGrowing = true))
        assertEquals(listOf(Code("py", "x = ")), readMarkdown("```py\nx = "))
        assertEquals(listOf(Code("py", "x = 1")), readMarkdown("```py\nx = 1\n``", isGrowing = true))
        assertEquals(paragraph(Span("a "), Span("co", code = true)), readMarkdown("a `co", isGrowing = true))
        for (half in listOf("#", "##", "-", "*", "**", "`", "``", "- ")) {
            assertEquals(half, "", shown(readMarkdown(half, isGrowing = true)))
        }
    }

    /** What stands on the screen is never taken away again: each state is how the next begins. */
    @Test
    fun `a growing answer does not flicker`() {
        val answer = "# Two\n\nSome **bold** text, *it*, `code` and **more `code`**.\n\n- one\n- **two**\n\n" +
            "```c\nint a;\n```\n\n1. first\n2. second\n\nThe *end*"
        var before = ""
        for (length in 1..answer.length) {
            val now = shown(readMarkdown(answer.take(length), isGrowing = true))
            val isListNumber = Regex("""[12]\.?\s*$""").containsMatchIn(before)
            assertTrue("'$before' became '$now'", now.startsWith(before.trimEnd()) || isListNumber)
            before = now
        }
    }

    @Test
    fun `any text and any beginning of it can be read, and no word is lost`() {
        val parts = listOf(
            "*", "**", "***", "_", "__", "`", "``", "```", "~~~", "\n", "\n\n", " ", "  ", "\t", "# ", "###", "- ", "1. ",
            "2) ",
            "\\", "\\*", "a", "b c", "word", "😀", "中", "\r\n", "[x](y)", "---", "> ", "|", "9",
        )
        repeat(4000) { seed ->
            val random = Random(seed)
            val text = List(random.nextInt(1, 25)) { parts.random(random) }.joinToString("")
            assertEquals(text, words(text), words(shown(readMarkdown(text))))
            for (length in text.indices) {
                val begun = text.take(length)
                assertEquals(begun, words(begun), words(shown(readMarkdown(begun, isGrowing = true))))
            }
        }
    }

    @Test
    fun `no text takes long`() {
        val hard = listOf(
            "**a ", "*a ", "_a *b `c ", "***", "`", "``` ", "- ", "-", "> ", "[", "\\", "*a _b ", "# ", " ", "\n", "a*", "1. *",
        )
        for (part in hard) {
            for (text in listOf(part.repeat(20_000 / part.length), "**" + part.repeat(20_000 / part.length) + "a**")) {
                val ms = measureTimeMillis { for (isGrowing in listOf(false, true)) readMarkdown(text, isGrowing) }
                assertTrue("$part takes $ms ms", ms < 2000)
            }
        }
    }

    private fun shown(blocks: List<Block>): String = blocks.joinToString("\n") { block ->
        when (block) {
            is Paragraph -> textOf(block.text)
            is Heading -> textOf(block.text)
            is Item -> block.mark + " " + textOf(block.text)
            is Code -> block.language + "\n" + block.text
            Block.Rule -> "---"
        }
    }

    private fun textOf(spans: List<Span>) = spans.joinToString("") { it.text }

    private fun words(text: String) = text.filter { it.isLetterOrDigit() || it.isSurrogate() }
}
