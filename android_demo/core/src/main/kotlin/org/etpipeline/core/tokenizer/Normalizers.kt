package org.etpipeline.core.tokenizer

import java.text.Normalizer.Form

private const val CAPITAL_I_WITH_DOT = 0x130
private const val DECOMPOSED = 0x11938 // since Unicode 13, which the Rust library does not know

/** What is done to a text before it is cut up. */
internal fun interface Normalizer {
    fun normalize(text: String): String

    /** Whether the first character of what is made stems from the first of the text. */
    val keepsStart: Boolean get() = false

    class Sequence(private val steps: List<Normalizer>) : Normalizer {
        override val keepsStart get() = steps.all { it.keepsStart }
        override fun normalize(text: String) = steps.fold(text) { made, step -> step.normalize(made) }
    }

    /** Unicode's normal forms, by the tables of the Rust library where those of this machine are newer. */
    class Unicode(private val form: Form) : Normalizer {
        private val isCompatible = form == Form.NFKC || form == Form.NFKD
        private val isDecomposed = form == Form.NFD || form == Form.NFKD
        override val keepsStart get() = true

        override fun normalize(text: String): String {
            if (text.all { it.code < 128 }) return text
            val made = StringBuilder(text.length)
            var from = 0
            for (at in text.indices) {
                val char = text.codePoint(at)
                if (!isLeftAlone(char)) continue
                made.append(java.text.Normalizer.normalize(text.substring(from, at), form))
                from = at + Character.charCount(char)
                made.append(text, at, from)
            }
            return made.append(java.text.Normalizer.normalize(text.substring(from), form)).toString()
        }

        private fun isLeftAlone(char: Int) = char in RustChars.NEWER_MARKS ||
            isCompatible && char in RustChars.NOT_COMPATIBLE || isDecomposed && char == DECOMPOSED
    }

    data object Lowercase : Normalizer {
        override val keepsStart get() = true
        override fun normalize(text: String): String = text.map { made, char ->
            made.appendCodePoint(Character.toLowerCase(char))
            if (char == CAPITAL_I_WITH_DOT) made.append('\u0307') // the only one that becomes two
        }
    }

    class Strip(private val left: Boolean, private val right: Boolean) : Normalizer {
        override fun normalize(text: String): String {
            // All white space is of one UTF-16 unit.
            val from = if (left) text.indexOfFirst { it.code !in Chars.SPACE } else 0
            if (from < 0) return ""
            val to = if (right) text.indexOfLast { it.code !in Chars.SPACE } + 1 else text.length
            return text.substring(from, to)
        }
    }

    data object StripAccents : Normalizer {
        override fun normalize(text: String): String = text.without(RustChars.MARK)
    }

    class Prepend(private val content: String) : Normalizer {
        override fun normalize(text: String) = if (text.isEmpty()) text else content + text
    }

    class Replace(private val pattern: Pattern, private val content: String) : Normalizer {
        override val keepsStart get() = pattern is OneOf && content.isNotEmpty()
        override fun normalize(text: String) = pattern.replace(text, content)
    }

    data object Nmt : Normalizer {
        private val taken = Chars.ranges("1-8 B E-1F 7F 8F 9F")
        private val blank = Chars.ranges("9 A C D 1680 200B-200F 2028 2029 2581 FEFF FFFD")
        override fun normalize(text: String) = text.without(taken).map { made, char ->
            made.appendCodePoint(if (char in blank) ' '.code else char)
        }
    }

    data object ByteLevel : Normalizer {
        override fun normalize(text: String) = ByteLetters.write(text)
    }

    class Bert(
        private val clean: Boolean,
        private val spaceIdeographs: Boolean,
        private val stripAccents: Boolean,
        private val lowercase: Boolean,
    ) : Normalizer {
        private val decomposed = Unicode(Form.NFD)

        override fun normalize(text: String): String {
            var made = text
            if (clean) made = cleaned(made)
            if (spaceIdeographs) made = spaced(made)
            if (stripAccents) made = decomposed.normalize(made).without(RustChars.NONSPACING)
            return if (lowercase) Lowercase.normalize(made) else made
        }

        private fun cleaned(text: String) = text.map { made, char ->
            if (char !in RustChars.OTHER) made.appendCodePoint(if (char in Chars.SPACE) ' '.code else char)
        }

        private fun spaced(text: String) = text.map { made, char ->
            if (char in RustChars.IDEOGRAPH) made.append(' ').appendCodePoint(char).append(' ')
            else made.appendCodePoint(char)
        }
    }
}

private inline fun String.map(rule: (StringBuilder, Int) -> Unit): String {
    val made = StringBuilder(length)
    eachCodePoint { rule(made, it) }
    return made.toString()
}

private fun String.without(set: Chars): String = map { made, char -> if (char !in set) made.appendCodePoint(char) }
