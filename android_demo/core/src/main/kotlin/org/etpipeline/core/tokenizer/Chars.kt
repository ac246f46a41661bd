package org.etpipeline.core.tokenizer

import java.lang.Character.UnicodeScript

private const val ASCII = 128

/**
 * A set of characters.
 *
 * Every machine's regular expressions have their own idea of `\s`, `\w` and `\p{L}`. These sets ask only for a
 * character's general category, so that they are the same on a phone and in a test, but for characters newer than the
 * machine's Unicode.
 */
internal class Chars private constructor(private val rule: (Int) -> Boolean) {
    private val ascii = BooleanArray(ASCII, rule)

    operator fun contains(char: Int): Boolean = if (char < ASCII) ascii[char] else rule(char)

    operator fun plus(other: Chars): Chars = Chars { it in this || it in other }

    operator fun minus(other: Chars): Chars = Chars { it in this && it !in other }

    infix fun and(other: Chars): Chars = Chars { it in this && it in other }

    operator fun not(): Chars = Chars { it !in this }

    companion object {
        /** Unicode's White_Space, which is `\s`. */
        val SPACE = ranges("9-D 20 85 A0 1680 2000-200A 2028 2029 202F 205F 3000")
        val DIGIT = category("Nd")
        val NUMBER = category("N")
        private val NEWER_HAN = ranges("16FE2-16FE3") // since Unicode 14
        private val ALPHABETIC = Chars { Character.isAlphabetic(it) }

        /** What Oniguruma has for `\w` in brackets. */
        val WORD_IN_SET = ALPHABETIC + category("M") + DIGIT + category("Pc")

        /** What Oniguruma has for `\w` by itself: some fractions and raised digits as well. */
        val WORD = WORD_IN_SET + ranges("B2 B3 B9 BC-BE")

        /** What Rust has for `\w`. */
        val RUST_WORD = WORD_IN_SET + ranges("200C 200D")

        fun of(char: Int): Chars = Chars { it == char }

        fun range(from: Int, to: Int): Chars = Chars { it in from..to }

        /** An ASCII letter in both cases, and what Unicode folds to it. */
        fun anyCase(letter: Int): Chars {
            val small = Character.toLowerCase(letter)
            val folded = mapOf('s'.code to 0x17F, 'k'.code to 0x212A)[small]
            return Chars { it == small || it == Character.toUpperCase(small) || it == folded }
        }

        /** Hexadecimal code points and ranges of them. */
        fun ranges(text: String): Chars {
            val parts = text.split(' ').sortedBy { it.substringBefore('-').toInt(16) }
            val first = parts.map { it.substringBefore('-').toInt(16) }.toIntArray()
            val last = parts.map { it.substringAfter('-').toInt(16) }.toIntArray()
            return Chars { char ->
                val at = first.binarySearch(char)
                at >= 0 || at < -1 && char <= last[-at - 2]
            }
        }

        /** A general category, such as Lu, or a group of them, such as L. */
        fun category(name: String): Chars {
            val members = CharCategory.entries.filter { it.code.startsWith(name) }
            require(members.isNotEmpty() && name.isNotEmpty()) { "the property '$name' is not known" }
            val mask = members.fold(0) { sum, it -> sum or (1 shl it.value) }
            return Chars { mask shr Character.getType(it) and 1 == 1 }
        }

        /** A property of a regular expression: a general category or a script. */
        fun property(name: String): Chars {
            if (name.length <= 2) return category(name)
            val script = try {
                UnicodeScript.forName(name)
            } catch (error: IllegalArgumentException) {
                throw IllegalArgumentException("the property '$name' is not known", error)
            }
            val members = Chars { UnicodeScript.of(it) == script }
            return if (script == UnicodeScript.HAN) members + NEWER_HAN else members
        }
    }
}

/** The first character at [at], as one number. */
internal fun CharSequence.codePoint(at: Int): Int = Character.codePointAt(this, at)

/** Calls [take] with every character of a text. */
internal inline fun String.eachCodePoint(take: (Int) -> Unit) {
    var at = 0
    while (at < length) {
        val char = codePointAt(at)
        take(char)
        at += Character.charCount(char)
    }
}
