package org.etpipeline.core.tokenizer

/**
 * Where something is in a text.
 *
 * The regular expressions of a tokenizer.json are Oniguruma's. What a JVM's and what a phone's mean differs from them
 * and from each other, so they are not translated but matched by [Matcher]s of our own, and what these do not know is
 * refused.
 */
internal abstract class Pattern {
    /** Where a match that begins at [at] ends; negative if there is none. */
    abstract fun end(text: String, at: Int): Int

    /**
     * The text in pieces, each a match or what lies between two, as starts, with the text's length at the end.
     *
     * @param take gets start, end and whether it is a match.
     */
    inline fun eachPiece(text: String, take: (start: Int, end: Int, isMatch: Boolean) -> Unit) {
        var from = 0 // of the search
        var done = 0 // end of the last match
        var isFirst = true
        while (from <= text.length) {
            var start = from
            var end = end(text, start)
            while (end < 0 && start < text.length) {
                start += Character.charCount(text.codePointAt(start))
                end = end(text, start)
            }
            if (end < 0) break
            if (end == start && end == done && !isFirst) { // no empty match right after another one
                from = if (from < text.length) from + Character.charCount(text.codePointAt(from)) else from + 1
                continue
            }
            if (start > done) take(done, start, false)
            take(start, end, true)
            isFirst = false
            from = end
            done = end
        }
        if (done < text.length) take(done, text.length, false)
    }

    /** The text with every match replaced. */
    fun replace(text: String, by: String): String {
        if (text.isEmpty()) return text
        val made = StringBuilder(text.length)
        eachPiece(text) { start, end, isMatch -> if (isMatch) made.append(by) else made.append(text, start, end) }
        return made.toString()
    }
}

/** A text as it is. */
internal class Literal(private val content: String) : Pattern() {
    override fun end(text: String, at: Int) = if (text.startsWith(content, at)) at + content.length else -1
}

/** Any one character of a set. */
internal class OneOf(private val set: Chars) : Pattern() {
    override fun end(text: String, at: Int): Int {
        if (at >= text.length) return -1
        val char = text.codePoint(at)
        return if (char in set) at + Character.charCount(char) else -1
    }
}

/** A part of a regular expression, tied to what comes after it; its [end] is that of the whole rest. */
internal sealed class Matcher : Pattern() {
    /** The end of the expression. */
    data object End : Matcher() {
        override fun end(text: String, at: Int) = at
    }

    class One(private val set: Chars, private val next: Matcher) : Matcher() {
        override fun end(text: String, at: Int): Int {
            if (at >= text.length) return -1
            val char = text.codePoint(at)
            return if (char in set) next.end(text, at + Character.charCount(char)) else -1
        }
    }

    class Either(private val choices: List<Matcher>) : Matcher() {
        override fun end(text: String, at: Int): Int {
            for (choice in choices) {
                val end = choice.end(text, at)
                if (end >= 0) return end
            }
            return -1
        }
    }

    /** As many characters of a set as there are, and fewer if the rest wants them; not if it [keeps] them. */
    class Many(
        private val set: Chars,
        private val least: Int,
        private val most: Int,
        private val keeps: Boolean,
        private val next: Matcher,
    ) : Matcher() {
        override fun end(text: String, at: Int): Int {
            var from = at
            var count = 0
            while (count < most && from < text.length) {
                val char = text.codePoint(from)
                if (char !in set) break
                from += Character.charCount(char)
                count++
            }
            if (count < least) return -1
            while (true) {
                val end = next.end(text, from)
                if (end >= 0 || keeps || count == least) return end
                from -= Character.charCount(Character.codePointBefore(text, from))
                count--
            }
        }
    }

    /** As few characters of a set as the rest allows. */
    class Few(private val set: Chars, private val least: Int, private val most: Int, private val next: Matcher) :
        Matcher() {
        override fun end(text: String, at: Int): Int {
            var from = at
            var count = 0
            while (true) {
                if (count >= least) {
                    val end = next.end(text, from)
                    if (end >= 0) return end
                }
                if (count == most || from >= text.length) return -1
                val char = text.codePoint(from)
                if (char !in set) return -1
                from += Character.charCount(char)
                count++
            }
        }
    }

    /** A group whose end is certain where it begins, any number of times; without a call for each time. */
    class Row(private val body: Matcher, private val next: Matcher) : Matcher() {
        override fun end(text: String, at: Int): Int {
            val places = Ids()
            var from = at
            while (from >= 0) {
                places.add(from)
                from = body.end(text, from)
            }
            return places.toArray().reversed().firstNotNullOfOrNull { place ->
                next.end(text, place).takeIf { it >= 0 }
            } ?: -1
        }
    }

    /** A group any number of times. [body] goes back to this when it is through. */
    class Again(private val next: Matcher) : Matcher() {
        lateinit var body: Matcher

        override fun end(text: String, at: Int): Int {
            val end = body.end(text, at)
            return if (end >= 0) end else next.end(text, at)
        }
    }

    /** A group that gives nothing back. */
    class Whole(private val body: Matcher, private val next: Matcher) : Matcher() {
        override fun end(text: String, at: Int): Int {
            val end = body.end(text, at)
            return if (end < 0) -1 else next.end(text, end)
        }
    }

    class Ahead(private val body: Matcher, private val isWanted: Boolean, private val next: Matcher) : Matcher() {
        override fun end(text: String, at: Int): Int =
            if (body.end(text, at) >= 0 == isWanted) next.end(text, at) else -1
    }

    /** A place that is told by the character before it and the one behind it, each null at an end of the text. */
    class Place(private val next: Matcher, private val rule: (before: Int?, behind: Int?) -> Boolean) : Matcher() {
        override fun end(text: String, at: Int): Int {
            val before = if (at > 0) Character.codePointBefore(text, at) else null
            val behind = if (at < text.length) text.codePoint(at) else null
            return if (rule(before, behind)) next.end(text, at) else -1
        }
    }
}
