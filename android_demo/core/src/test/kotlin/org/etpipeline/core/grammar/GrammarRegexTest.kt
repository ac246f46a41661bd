package org.etpipeline.core.grammar

import java.util.BitSet
import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The automata of regular expressions against Java's own. */
class GrammarRegexTest {
    private val bytes = Vocabulary(List(256) { byteArrayOf(it.toByte()) })

    @Test
    fun `what matches is accepted and nothing else`() {
        val random = Random(1)
        var accepted = 0
        for (pattern in PATTERNS) {
            val grammar = Grammar.ofRegex(pattern)
            val java = Regex(pattern)
            repeat(300) {
                val text = if (it % 2 == 0) sampled(grammar, random) else changed(sampled(grammar, random), random)
                val matches = java.matches(text)
                if (matches) accepted++
                assertEquals("$pattern: '$text'", matches, accepts(grammar, text))
            }
        }
        assertTrue("$accepted", accepted > PATTERNS.size * 150)
    }

    @Test
    fun `random patterns mean what they mean to Java`() {
        val random = Random(2)
        repeat(400) {
            val pattern = randomPattern(random, 3)
            val grammar = Grammar.ofRegex(pattern)
            val java = Regex(pattern)
            repeat(30) {
                val text = sampled(grammar, random)
                assertTrue("$pattern: '$text'", java.matches(text))
                val other = changed(text, random)
                assertEquals("$pattern: '$other'", java.matches(other), accepts(grammar, other))
            }
        }
    }

    @Test
    fun `every beginning of a match can go on`() {
        val random = Random(3)
        for (pattern in PATTERNS) {
            val grammar = Grammar.ofRegex(pattern)
            repeat(20) {
                val constraint = grammar.constraint(bytes)
                for (byte in sampled(grammar, random).toByteArray()) {
                    assertFalse(constraint.isDone)
                    assertTrue(constraint.mask()[byte.toInt() and 0xFF])
                    constraint.accept(byte.toInt() and 0xFF)
                }
                assertTrue(constraint.mayEnd)
            }
        }
    }

    @Test
    fun `a mask holds the tokens that are accepted`() {
        val random = Random(4)
        for (pattern in PATTERNS) {
            val grammar = Grammar.ofRegex(pattern)
            val words = List(300) { sampled(grammar, random).toByteArray() }
            val pieces = words.map { word ->
                val from = random.nextInt(word.size + 1)
                word.copyOfRange(from, random.nextInt(from, word.size + 1))
            }
            val vocabulary = Vocabulary(bytes.tokens + null + pieces)
            var constraint = grammar.constraint(vocabulary)
            val taken = mutableListOf<Int>()
            repeat(20) {
                val mask = constraint.mask()
                val expected = BitSet()
                for (token in vocabulary.tokens.indices) {
                    if (isAccepted(grammar, vocabulary, taken + token)) expected.set(token)
                }
                assertEquals("$pattern after $taken", expected, mask)
                if (mask.isEmpty) {
                    constraint = grammar.constraint(vocabulary)
                    taken.clear()
                } else {
                    taken += mask.stream().toArray().random(random)
                    constraint.accept(taken.last())
                }
            }
        }
    }

    @Test
    fun `what is no part of the language is refused`() {
        val refused = listOf(
            "a(?=b)", "(?<n>a)", "(a)\\1", "a*+", "a**", "\\p{L}", "\\bword", "a^b", "(a$)b", "[", "[]", "(a", "a)",
            "a{2", "a{3,2}", "*", "{", "[z-a]", "[\\d-x]", "\\", "\\u12", "a{99999}", "[a&&b]", "(.{5000}){5000}",
        )
        for (pattern in refused) {
            val error = assertThrows(pattern, GrammarException::class.java) { Grammar.ofRegex(pattern) }
            assertTrue("${error.message}", error.message!!.startsWith("pattern: "))
        }
    }

    @Test
    fun `a token that is not allowed changes nothing`() {
        val constraint = Grammar.ofRegex("ab?").constraint(bytes)
        assertThrows(IllegalArgumentException::class.java) { constraint.accept('b'.code) }
        assertThrows(IllegalArgumentException::class.java) { constraint.accept(1000) }
        constraint.accept('a'.code)
        assertTrue(constraint.mayEnd)
        assertFalse(constraint.isDone)
        constraint.accept('b'.code)
        assertTrue(constraint.isDone)
        assertTrue(constraint.mask().isEmpty)
    }

    @Test
    fun `an answer is ended in time or not begun`() {
        val grammar = Grammar.ofRegex("(ab)*c|x{10}y*")
        assertThrows(IllegalStateException::class.java) { grammar.constraint(bytes).mask(0) }
        assertEquals(setOf('c'), allowed(grammar.constraint(bytes).mask(1)))
        assertEquals(setOf('c'), allowed(grammar.constraint(bytes).mask(2)))
        assertEquals(setOf('a', 'c'), allowed(grammar.constraint(bytes).mask(3)))
        assertEquals(setOf('a', 'c', 'x'), allowed(grammar.constraint(bytes).mask(10)))
    }

    @Test
    fun `a vocabulary that cannot write an answer is refused and one that can avoids what it lacks`() {
        val few = Vocabulary(listOf("a", "b", "ab", "cd").map { it.toByteArray() } + null + byteArrayOf())
        val error = assertThrows(IllegalArgumentException::class.java) { Grammar.ofRegex("a+c").constraint(few) }
        assertTrue(error.message!!, "63" in error.message!!.split(' '))
        assertEquals(setOf(0, 2), Grammar.ofRegex("ab?|abc|cdb|ce").constraint(few).mask().stream().toArray().toSet())
    }

    @Test
    fun `more states than are kept`() {
        val random = Random(5)
        val constraint = Grammar.ofRegex("(a|b)*a(a|b){14}").constraint(bytes)
        var last = 0
        repeat(60_000) {
            assertEquals(setOf('a', 'b'), allowed(constraint.mask()))
            val isA = random.nextBoolean()
            constraint.accept((if (isA) 'a' else 'b').code)
            last = last shl 1 or if (isA) 1 else 0
            assertEquals(last shr 14 and 1 == 1, constraint.mayEnd)
        }
    }

    private fun allowed(mask: BitSet): Set<Char> = mask.stream().toArray().map { it.toChar() }.toSet()

    private fun isAccepted(grammar: Grammar, vocabulary: Vocabulary, tokens: List<Int>): Boolean {
        val constraint = grammar.constraint(vocabulary)
        return tokens.all { runCatching { constraint.accept(it) }.isSuccess }
    }

    private fun accepts(grammar: Grammar, text: String): Boolean {
        val constraint = grammar.constraint(bytes)
        val isWhole = text.toByteArray().all { runCatching { constraint.accept(it.toInt() and 0xFF) }.isSuccess }
        return isWhole && constraint.mayEnd
    }

    private fun sampled(grammar: Grammar, random: Random): String {
        val constraint = grammar.constraint(bytes)
        val written = mutableListOf<Byte>()
        for (left in 60 downTo 1) {
            val mask = constraint.mask(left)
            if (mask.isEmpty || constraint.mayEnd && random.nextInt(4) == 0) break
            // Half the time ASCII: of all bytes most begin rare characters.
            val options = mask.stream().toArray().toList()
            val byte = options.filter { it in 32..126 }.takeIf { it.isNotEmpty() && random.nextBoolean() } ?: options
            written += byte.random(random).also(constraint::accept).toByte()
        }
        assertTrue(constraint.mayEnd)
        return written.toByteArray().decodeToString(throwOnInvalidSequence = true)
    }

    /** The same with one character removed, added or changed. */
    private fun changed(text: String, random: Random): String {
        val characters = text.codePoints().toArray().toMutableList()
        val other = (text + "abc1 é\n-_.\"").codePoints().toArray().random(random)
        val at = random.nextInt(characters.size + 1)
        when (random.nextInt(3)) {
            0 -> characters.add(at, other)
            1 -> if (at < characters.size) characters.removeAt(at)
            else -> if (at < characters.size) characters[at] = other
        }
        return characters.joinToString("") { String(Character.toChars(it)) }
    }

    private fun randomPattern(random: Random, depth: Int): String =
        when (random.nextInt(if (depth == 0) 3 else 7)) {
            0 -> listOf("a", "b", "c", "é", "😀", "\\.", "-").random(random)
            1 -> listOf("[ab]", "[^a]", "\\d", "\\w", "[a-cé-ü]", ".", "\\S", "[^\\d\\s]").random(random)
            2 -> "ab"
            3 -> "(${randomPattern(random, depth - 1)}|${randomPattern(random, depth - 1)})"
            4 -> "(?:${randomPattern(random, depth - 1)})" + QUANTIFIERS.random(random)
            else -> randomPattern(random, depth - 1) + randomPattern(random, depth - 1)
        }

    private companion object {
        val QUANTIFIERS = listOf("*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}")
        val PATTERNS = listOf(
            "abc", "a|b|", "(a|b)*abb", "[a-z]+@[a-z]+\\.(com|org)", "\\d{3}-\\d{4}", "\\w+( \\w+){0,3}", ".*",
            "[^a-z]{2,5}", "(ä|ö|ü|ß)+x?", "[À-ſ]{1,4}", "[一-鿿]+。", "(😀|😁|[🐀-🐿])*!", "\\s\\S\\D\\W", "(a*)*b",
            "(a?){3}b{2,}", "\"[^\"\\\\]*\"", "\\x41\\u00e9+", "[\\]\\-^]+", "[-a]+[b-]", "(yes|no)\\.?", "x{0}y",
            "-?(0|[1-9]\\d*)(\\.\\d+)?",
            "(?:ab|a)(?:bc|c)?", "a{2,}?b", "^(foo|bar)$", "[\\w.]+", "(a|b)*a(a|b){4}",
        )
    }
}
