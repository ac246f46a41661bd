package org.etpipeline.core.tokenizer

private const val NO_END = Int.MAX_VALUE
private const val MOST_COPIES = 100
private const val MOST_DEPTH = 50
private val GROUPS = listOf("(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?i)", "(")
private const val REPEATING = "*+?{"
private const val SPECIAL = "\\.[]{}()*+?|^$"

/** Pairs of letters that Unicode folds into one character, or one character into them. */
private val FOLDED = listOf("ss", "st", "ff", "fi", "fl")
private val LINE_END = Chars.of('\n'.code)
private val ESCAPES = mapOf('n' to '\n', 'r' to '\r', 't' to '\t', 'f' to '\u000C', 'v' to '\u000B', '0' to '\u0000')

/**
 * The regular expression [source], as Oniguruma reads it.
 *
 * @throws IllegalArgumentException naming what of it is not known here.
 */
internal fun readPattern(source: String): Pattern = PatternReader(source).read()

/** A part of a regular expression, which is tied to what comes after it when that is known. */
private sealed interface Part {
    /** The fewest characters that it takes. */
    val least: Int

    /** Whether there is but one end of it where it begins. */
    val isCertain: Boolean get() = false

    fun before(next: Matcher): Matcher

    class One(val set: Chars) : Part {
        override val least get() = 1
        override val isCertain get() = true
        override fun before(next: Matcher) = Matcher.One(set, next)
    }

    class Line(val parts: List<Part>) : Part {
        override val least get() = parts.sumOf { it.least }
        override val isCertain get() = parts.all { it.isCertain }
        override fun before(next: Matcher) = parts.foldRight(next) { part, rest -> part.before(rest) }
    }

    class Either(val choices: List<Part>) : Part {
        override val least get() = choices.minOf { it.least }
        override fun before(next: Matcher) = Matcher.Either(choices.map { it.before(next) })
    }

    /** Something that takes no characters. */
    class Mark(private val make: (Matcher) -> Matcher) : Part {
        override val least get() = 0
        override val isCertain get() = true
        override fun before(next: Matcher) = make(next)
    }

    class Times(private val body: Part, private val from: Int, private val to: Int, private val kind: Char) : Part {
        override val least get() = minOf(body.least * from, MOST_COPIES)
        override val isCertain get() = kind == '+' || from == to && body.isCertain

        override fun before(next: Matcher): Matcher = when {
            body is One && kind == '?' -> Matcher.Few(body.set, from, to, next)
            body is One -> Matcher.Many(body.set, from, to, kind == '+', next)
            kind == '+' -> Matcher.Whole(Times(body, from, to, ' ').before(Matcher.End), next)
            else -> (1..from).fold(tail(next)) { rest, _ -> body.before(rest) }
        }

        private fun tail(next: Matcher): Matcher {
            if (to == NO_END && body.isCertain) return Matcher.Row(body.before(Matcher.End), next)
            if (to == NO_END) return Matcher.Again(next).also { it.body = body.before(it) }
            return (from until to).fold(next) { rest, _ -> Matcher.Either(listOf(body.before(rest), next)) }
        }

        fun check() {
            if (body is One) return
            require(kind != '?') { "a group that is repeated as little as possible" }
            require(body.least > 0) { "a group that is repeated and may be empty" }
            require(from <= MOST_COPIES && (to == NO_END || to <= MOST_COPIES)) { "a group that is repeated so often" }
        }
    }
}

private class PatternReader(private val source: String) {
    private var at = 0
    private var anyCase = false
    private var depth = 0

    fun read(): Pattern {
        try {
            val whole = choices()
            require(at == source.length) { "a ')' too many" }
            return whole.before(Matcher.End)
        } catch (error: IllegalArgumentException) {
            throw IllegalArgumentException("the regular expression '$source' has at $at: ${error.message}", error)
        }
    }

    private fun choices(): Part {
        require(depth++ < MOST_DEPTH) { "too many groups in each other" }
        val choices = mutableListOf(line())
        while (take('|')) choices += line()
        depth--
        return choices.singleOrNull() ?: Part.Either(choices)
    }

    private fun line(): Part {
        val parts = mutableListOf<Part>()
        val letters = StringBuilder() // that stand side by side
        while (at < source.length && source[at] !in "|)") {
            val isLetter = anyCase && source[at] !in SPECIAL
            if (isLetter) letters.append(source[at].lowercaseChar()) else letters.setLength(0)
            require(FOLDED.none { letters.endsWith(it) }) { "'${letters.takeLast(2)}' in any case" }
            parts += repeated(single())
        }
        return parts.singleOrNull() ?: Part.Line(parts)
    }

    private fun repeated(part: Part): Part {
        if (at == source.length || source[at] !in REPEATING) return part
        val isCounted = source[at] == '{'
        val (from, to) = count()
        val kind = if (!isCounted && at < source.length && source[at] in "+?") source[at++] else ' '
        require(at == source.length || source[at] !in REPEATING) { "a repetition of a repetition" }
        return Part.Times(part, from, to, kind).also { it.check() }
    }

    private fun count(): Pair<Int, Int> {
        when (source[at++]) {
            '*' -> return 0 to NO_END
            '+' -> return 1 to NO_END
            '?' -> return 0 to 1
            else -> Unit
        }
        val end = source.indexOf('}', at)
        val count = Regex("([0-9]{1,5})(,([0-9]{0,5}))?").matchEntire(source.substring(at, maxOf(end, at)))
        requireNotNull(count) { "a '{' that is no count" }
        at = end + 1
        val (from, comma, to) = count.destructured
        val most = if (comma.isEmpty()) from.toInt() else to.toIntOrNull() ?: NO_END
        require(most >= from.toInt()) { "a count that goes down" }
        return from.toInt() to most
    }

    private fun single(): Part = when (val char = source[at]) {
        '(' -> group()
        '[' -> Part.One(set())
        '.' -> {
            at++
            Part.One(!LINE_END)
        }
        '^' -> mark { before, behind -> before == null || before in LINE_END && behind != null }
        '$' -> mark { before, behind ->
            if (behind == null) before == null || before !in LINE_END else behind in LINE_END
        }
        '\\' -> escape()
        '*', '+', '?', '{' -> throw IllegalArgumentException("a '$char' after nothing")
        else -> Part.One(letter(takeCodePoint()))
    }

    private fun letter(char: Int): Chars = when {
        !anyCase || !Character.isLetter(char) -> Chars.of(char)
        char < 128 -> Chars.anyCase(char)
        else -> throw IllegalArgumentException("a letter beyond ASCII in any case")
    }

    private fun mark(rule: (Int?, Int?) -> Boolean): Part {
        at++
        return Part.Mark { Matcher.Place(it, rule) }
    }

    private fun escape(): Part {
        when (source.getOrNull(at + 1)) {
            'b' -> return edge(isWanted = true)
            'B' -> return edge(isWanted = false)
            'A' -> return place { before, _ -> before == null }
            'z' -> return place { _, behind -> behind == null }
            else -> Unit
        }
        return Part.One(escapedSet(Chars.WORD))
    }

    private fun edge(isWanted: Boolean): Part = place { before, behind ->
        val isInside = before != null && before in Chars.WORD
        (isInside != (behind != null && behind in Chars.WORD)) == isWanted
    }

    private fun place(rule: (Int?, Int?) -> Boolean): Part {
        at++
        return mark(rule)
    }

    private fun group(): Part {
        val open = GROUPS.first { source.startsWith(it, at) }
        at += open.length
        require(open != "(" || source.getOrNull(at) != '?') { "an unknown group, '${source.drop(at - 1).take(3)}'" }
        val before = anyCase
        if (open.startsWith("(?i")) anyCase = true
        if (open == "(?i)") return choices().also { anyCase = before } // up to the end of the group it stands in
        val body = choices()
        anyCase = before
        require(take(')')) { "no ')'" }
        return when (open) {
            "(?=", "(?!" -> Part.Mark { Matcher.Ahead(body.before(Matcher.End), open == "(?=", it) }
            "(?<=", "(?<!" -> behind(body, open == "(?<=")
            "(?>" -> Part.Line(listOf(Part.Mark { Matcher.Whole(body.before(Matcher.End), it) }))
            else -> body
        }
    }

    private fun behind(body: Part, isWanted: Boolean): Part {
        val set = (body as? Part.One)?.set ?: throw IllegalArgumentException("more than a character to look back at")
        return Part.Mark { next -> Matcher.Place(next) { before, _ -> (before != null && before in set) == isWanted } }
    }

    /** A set in brackets; `&&` binds weaker than what stands side by side. */
    private fun set(): Chars {
        require(take('[') && depth++ < MOST_DEPTH) { "too many sets in each other" }
        require(!source.startsWith(":", at)) { "a set in colons" }
        val isNegated = take('^')
        var whole: Chars? = null
        var part: Chars? = null
        var isFirst = true
        while (!source.startsWith("]", at) || isFirst) {
            require(at < source.length) { "no ']'" }
            if (source.startsWith("&&", at)) {
                at += 2
                whole = both(whole, requireNotNull(part) { "'&&' after nothing" })
                part = null
            } else {
                val more = if (source[at] == '[') set() else range()
                part = part?.plus(more) ?: more
            }
            isFirst = false
        }
        at++
        depth--
        val made = both(whole, requireNotNull(part) { "'&&' before nothing" })
        return if (isNegated) !made else made
    }

    private fun both(one: Chars?, other: Chars): Chars = one?.and(other) ?: other

    /** A character of a set, or a range of them, or an escaped set. */
    private fun range(): Chars {
        val isEscaped = source[at] == '\\'
        val char = if (isEscaped) escapedChar() else takeCodePoint()
        if (char == null) return escapedSet(Chars.WORD_IN_SET)
        val isRange = source.startsWith("-", at) && source.getOrNull(at + 1) !in listOf(']', null)
        if (!isRange) return letter(char)
        at++
        require(source[at] != '[') { "a range to a set" }
        val last = if (source[at] == '\\') escapedChar() else takeCodePoint()
        require(last != null && last >= char) { "a range that goes down" }
        require(!anyCase || last < '0'.code) { "a range in any case" }
        return Chars.range(char, last)
    }

    /** @param word what `\w` is here. */
    private fun escapedSet(word: Chars): Chars {
        escapedChar()?.let { return letter(it) }
        val kind = source[at + 1]
        at += 2
        return when (kind) {
            's' -> Chars.SPACE
            'S' -> !Chars.SPACE
            'd' -> Chars.DIGIT
            'D' -> !Chars.DIGIT
            'w' -> word
            'W' -> !word
            else -> property(isNegated = kind == 'P')
        }
    }

    private fun property(isNegated: Boolean): Chars {
        val end = source.indexOf('}', at)
        require(take('{') && end > at) { "a property without a name" }
        val isTurned = take('^')
        val name = source.substring(at, end)
        require(!anyCase || name.length == 1) { "the property '$name' in any case" }
        val set = Chars.property(name)
        at = end + 1
        return if (isNegated != isTurned) !set else set
    }

    /** The character that is escaped here; null, and nothing taken, if it is a set of them. */
    private fun escapedChar(): Int? {
        val kind = requireNotNull(source.getOrNull(at + 1)) { "a '\\' at the end" }
        if (kind in "sSdDwWpP") return null
        at += 2
        ESCAPES[kind]?.let { return it.code }
        return when {
            kind == 'x' && take('{') -> hex(source.indexOf('}', at) - at).also { at++ }
            kind == 'x' -> hex(2).also { require(it < 128) { "a byte of a character" } }
            kind == 'u' -> hex(4)
            kind.isLetterOrDigit() -> throw IllegalArgumentException("'\\$kind'")
            else -> kind.code
        }
    }

    private fun hex(digits: Int): Int {
        val text = if (digits in 1..6 && at + digits <= source.length) source.substring(at, at + digits) else ""
        at += digits
        return requireNotNull(text.toIntOrNull(16)) { "a code that is none" }
    }

    private fun takeCodePoint(): Int {
        val char = source.codePointAt(at)
        at += Character.charCount(char)
        return char
    }

    private fun take(char: Char): Boolean {
        if (source.getOrNull(at) != char) return false
        at++
        return true
    }
}
