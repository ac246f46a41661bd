package org.etpipeline.core.tokenizer

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Regular expressions as Oniguruma has them. [TokenizerTruthTest] compares those of tokenizers with it. */
class PatternTest {
    private fun cut(source: String, text: String): List<String> {
        val found = mutableListOf<String>()
        readPattern(source).eachPiece(text) { start, end, isMatch ->
            found += if (isMatch) "<${text.substring(start, end)}>" else text.substring(start, end)
        }
        return found
    }

    @Test fun `a text is cut at its matches`() {
        assertEquals(listOf("<ab>", "c", "<ab>"), cut("ab", "abcab"))
        assertEquals(listOf("<a>", "<b>", "c"), cut("a|b", "abc"))
        assertEquals(listOf("<aaa>", "b"), cut("a+", "aaab"))
        assertEquals(listOf("<aa>", "<a>", "b"), cut("a{1,2}", "aaab"))
        assertEquals(emptyList<String>(), cut("a", ""))
    }

    @Test fun `a repetition gives back, or keeps, or takes little`() {
        assertEquals(listOf("<aab>"), cut("a*ab", "aab"))
        assertEquals(listOf("aab"), cut("a*+ab", "aab"))
        assertEquals(listOf("<ab>", "b"), cut("a.*?b", "abb"))
        assertEquals(listOf("<ababc>"), cut("(?:ab)+c", "ababc"))
        assertEquals(listOf("<abab>"), cut("(ab){2}", "abab"))
        assertEquals(listOf("<aba>"), cut("a(?:ba)?", "aba"))
        assertEquals(listOf("abc"), cut("(?>ab?)bc", "abc"))
    }

    @Test fun `a long row takes no deep stack`() {
        assertEquals(1_001, cut("\\d{1,3}(?=(?:\\d{3})*\\b)", "1".repeat(3_002)).size)
        assertEquals(listOf("<${"12".repeat(50_000)}>", "3"), cut("(?:12)*", "12".repeat(50_000) + "3").take(2))
    }

    @Test fun `places are looked at and not taken`() {
        assertEquals(listOf("<  >", " a"), cut("\\s+(?!\\S)", "   a"))
        assertEquals(listOf("a", "<>", "B"), cut("(?<=[a-z])(?=[A-Z])", "aB"))
        assertEquals(listOf("<a>", "b ", "<a>"), cut("\\ba", "ab a"))
        assertEquals(listOf("a\n", "<a>"), cut("(?<=\\n)a$", "a\na"))
        assertEquals(listOf("<a>", "\n", "<a>"), cut("^a", "a\na"))
    }

    @Test fun `letters in any case are those that Unicode folds`() {
        assertEquals(listOf("<'s>", "<'S>", "<'\u017F>", "'t"), cut("(?i:'s)", "'s'S'\u017F't"))
        assertEquals(listOf("'S", "<'K>"), cut("'(?i:k)", "'S'K"))
        assertEquals(listOf("<I>", "\u0130"), cut("(?i)i", "I\u0130"))
    }

    @Test fun `sets are united, cut and turned`() {
        assertEquals(listOf("<ad>", "bc", "<e>"), cut("[a-e&&[^bc]]+", "adbce"))
        assertEquals(listOf("<x>", "a.|"), cut("[^a.|]+", "xa.|"))
        assertEquals(listOf("<\u00e9\u4e09>", "1"), cut("[\\p{L}--]+", "\u00e9\u4e091"))
        assertEquals(listOf("<1>", "a"), cut("\\P{L}", "1a"))
        assertEquals(listOf("<1>", "a"), cut("[^\\p{L}]", "1a"))
        assertEquals(listOf("<\u3042>", "\u4e00"), cut("\\p{Hiragana}", "\u3042\u4e00"))
        assertEquals(listOf("<]->"), cut("[\\]\\-]+", "]-"))
        assertEquals(listOf("<\uD83D\uDE00>", "a"), cut("\\x{1F600}", "\uD83D\uDE00a"))
    }

    @Test fun `white space is Unicode's`() {
        assertEquals(listOf("<\u0085\u00A0\u3000\u2028>", "\u200B"), cut("\\s+", "\u0085\u00A0\u3000\u2028\u200B"))
        assertEquals(listOf("<\u0663>", "\u00B2"), cut("\\d", "\u0663\u00B2"))
    }

    @Test fun `what is not known is refused`() {
        val unknown = listOf(
            "(", ")", "[", "a{2", "*a", "(?<name>a)", "\\1", "\\k<a>", "\\p{Nonsense}", "[[:alpha:]]", "(?m:a)", "\\G",
            "(?<=ab)c", "(a?)*", "(ab)+?", "(?i:ss)", "(?i:[a-z])", "(?i:\u00e9)", "a{2,1}", "[b-a]", "a{1,2}+", "\\",
            "(".repeat(60) + ")".repeat(60), "[".repeat(60) + "a" + "]".repeat(60),
        )
        for (source in unknown) {
            val error = assertThrows(source, IllegalArgumentException::class.java) { readPattern(source) }
            assertTrue(error.message, error.message.orEmpty().startsWith("the regular expression '$source'"))
        }
    }
}
