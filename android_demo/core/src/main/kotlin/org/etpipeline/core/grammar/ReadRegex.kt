package org.etpipeline.core.grammar

private const val MOST_REPEATS = 5_000
private const val SINGLE = "\\^$.|?*+()[]{}/-\"'`~!@#%&=:;,<> _" // what stands for itself behind a backslash
private val DIGITS = CodePoints.of('0'.code..'9'.code)
private val WORD = DIGITS + CodePoints.of('a'.code..'z'.code, 'A'.code..'Z'.code) + CodePoints.of("_")
private val CONTROLS = mapOf('n' to 10, 't' to 9, 'r' to 13, 'f' to 12)

/** What differs between the languages of regular expressions: [space] is `\s`, [lineEnds] is what `.` leaves out. */
internal enum class Dialect(val space: CodePoints, val lineEnds: CodePoints) {
    JAVA(CodePoints.of(9..13) + CodePoints.of(" "), CodePoints.of("\n\r\u0085\u2028\u2029")),

    /** ECMA 262, which JSON schemas are written in. */
    ECMA(
        CodePoints.of(9..13, 0x2000..0x200A) +
            CodePoints.of(" \u00A0\u1680\u2028\u2029\u202F\u205F\u3000\uFEFF"),
        CodePoints.of("\n\r\u2028\u2029"),
    ),
}

/** The pattern of a regular expression that has to match a whole text. */
internal fun readRegex(pattern: String): Pattern =
    Pattern.Choice(RegexReader(pattern, Dialect.JAVA).read().map { it.body })

/** The pattern of a regular expression that has to be found somewhere in a text. */
internal fun readSearch(pattern: String): Pattern =
    Pattern.choice(
        RegexReader(pattern, Dialect.ECMA).read().map { option ->
            val before = if (option.isAtStart) Pattern.EMPTY else Pattern.ANYTHING
            val after = if (option.isAtEnd) Pattern.EMPTY else Pattern.ANYTHING
            Pattern.sequence(before, option.body, after)
        },
    )

/** An alternative of a whole expression and whether `^` and `$` hold it to the text's ends. */
private class Option(val body: Pattern, val isAtStart: Boolean, val isAtEnd: Boolean)

/** Reads regular expressions; what is not a finite automaton's (or is rare) is refused by name. */
private class RegexReader(private val source: String, private val dialect: Dialect) {
    private var at = 0

    fun read(): List<Option> {
        val options = mutableListOf<Option>()
        do {
            val isAtStart = take('^')
            val body = sequence()
            options += Option(body, isAtStart, take('$'))
        } while (take('|'))
        if (at < source.length) refuse(if (source[at] == ')') "')' without '('" else "'${source[at]}' in this place")
        return options
    }

    private fun choice(): Pattern {
        val options = mutableListOf(sequence())
        while (take('|')) options += sequence()
        return Pattern.choice(options)
    }

    private fun sequence(): Pattern {
        val parts = mutableListOf<Pattern>()
        while (at < source.length && source[at] !in "|)$") parts += repeated(atom())
        return parts.singleOrNull() ?: Pattern.Sequence(parts)
    }

    private fun repeated(atom: Pattern): Pattern {
        val (min, max) = when {
            take('*') -> 0 to null
            take('+') -> 1 to null
            take('?') -> 0 to 1
            take('{') -> bounds()
            else -> return atom
        }
        take('?') // a lazy quantifier matches the same texts
        if (at < source.length && source[at] in "*+?{") refuse("a quantifier of a quantifier")
        return Pattern.Repeat(atom, min, max)
    }

    private fun bounds(): Pair<Int, Int?> {
        val min = number()
        val max = if (!take(',')) min else if (source.getOrNull(at) == '}') null else number()
        if (!take('}')) refuse("'{' without '}'")
        if (max != null && max < min) refuse("{$min,$max}")
        return min to max
    }

    private fun number(): Int {
        val digits = source.substring(at).takeWhile { it in '0'..'9' }
        at += digits.length
        val number = digits.toIntOrNull() ?: refuse("'{' without a number (a brace itself is \\{)")
        if (number > MOST_REPEATS) refuse("a repetition of $number, more than $MOST_REPEATS")
        return number
    }

    private fun atom(): Pattern =
        when (val char = source[at]) {
            '(' -> group()
            '[' -> { at++; Pattern.Characters(characterClass()) }
            '.' -> { at++; Pattern.Characters(!dialect.lineEnds) }
            '\\' -> Pattern.Characters(escape())
            '^' -> refuse("'^' inside the pattern")
            '*', '+', '?', '{', '}', ']' -> refuse("'$char' in this place (the character itself is \\$char)")
            else -> Pattern.Characters(character())
        }

    private fun group(): Pattern {
        at++
        if (source.startsWith("?:", at)) at += 2
        else if (source.startsWith("?", at)) refuse("the group (${source.substring(at).take(3)}…")
        val body = choice()
        if (source.getOrNull(at) == '$') refuse("'$' inside a group")
        if (!take(')')) refuse("'(' without ')'")
        return body
    }

    private fun characterClass(): CodePoints {
        val isNegated = take('^')
        var set = CodePoints.NONE
        while (!take(']')) {
            if (at >= source.length) refuse("'[' without ']'")
            if (source[at] == '[' || source.startsWith("&&", at)) refuse("'${source[at]}' in a class (escape it)")
            set += range()
        }
        val result = if (isNegated) !set else set
        if (result.isEmpty) refuse("a class of no characters")
        return result
    }

    private fun range(): CodePoints {
        val first = member()
        val isRange = source.getOrNull(at) == '-' && source.getOrNull(at + 1) !in listOf(']', null)
        if (!isRange) return first
        at++
        val last = member()
        val low = single(first)
        val high = single(last)
        if (low > high) refuse("a range that runs backwards")
        return CodePoints.of(low..high)
    }

    private fun single(set: CodePoints): Int {
        val range = set.ranges.singleOrNull()
        return range?.first?.takeIf { it == range.last } ?: refuse("a range from or to a class")
    }

    private fun member(): CodePoints = if (source[at] == '\\') escape() else character()

    private fun character(): CodePoints {
        val codePoint = source.codePointAt(at)
        at += Character.charCount(codePoint)
        return checked(codePoint)
    }

    private fun escape(): CodePoints {
        val char = source.getOrNull(at + 1) ?: refuse("'\\' at the end")
        at += 2
        return when (char) {
            'd' -> DIGITS
            'D' -> !DIGITS
            'w' -> WORD
            'W' -> !WORD
            's' -> dialect.space
            'S' -> !dialect.space
            'x' -> hexadecimal(2)
            'u' -> hexadecimal(4)
            in CONTROLS -> CodePoints.of(CONTROLS.getValue(char).let { it..it })
            in SINGLE -> CodePoints.of(char.toString())
            else -> refuse("\\$char")
        }
    }

    private fun hexadecimal(digits: Int): CodePoints {
        val text = source.substring(at, minOf(source.length, at + digits))
        at += text.length
        val isWhole = text.length == digits && text.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }
        if (!isWhole) refuse("\\x or \\u without $digits hexadecimal digits")
        return checked(text.toInt(16))
    }

    private fun checked(codePoint: Int): CodePoints {
        val set = CodePoints.of(codePoint..codePoint)
        if (set.isEmpty) refuse("half a surrogate pair")
        return set
    }

    private fun take(char: Char): Boolean = (source.getOrNull(at) == char).also { if (it) at++ }

    private fun refuse(what: String): Nothing =
        throw GrammarException("pattern: '$source' has $what, which cannot be held to")
}
