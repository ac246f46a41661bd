package org.etpipeline.core.grammar

/** The grammar of an answer: terminals and what is made of them. */
internal sealed interface Expression {
    class Terminal(pattern: Pattern) : Expression {
        val nfa = Nfa(pattern)
    }

    /**
     * The characters of a JSON string, at least [min] and at most [max] of them, and the closing quote.
     *
     * @property character what is one of them; none is the beginning of another.
     */
    class StringRest(val min: Int, val max: Int?, val character: Nfa = JSON_CHARACTER) : Expression

    class Sequence(val parts: List<Expression>) : Expression

    class Choice(val options: List<Expression>) : Expression

    /** @property max null: as often as one likes. [body] is never empty. */
    data class Repeat(val body: Expression, val min: Int, val max: Int?) : Expression

    /** Stands for an expression that is known later: so it can be within itself. Each one is a level of depth. */
    class Rule : Expression {
        lateinit var body: Expression
    }

    companion object {
        val EMPTY: Expression = Sequence(emptyList())
        private val SPACE = Pattern.Repeat(Pattern.text(" "), 0, 1)

        fun sequence(vararg parts: Expression): Expression = Sequence(parts.toList())

        fun choice(options: List<Expression>): Expression = options.singleOrNull() ?: Choice(options)

        fun text(text: String): Expression = Terminal(Pattern.text(text))

        /** A pattern and a space behind it, or none: small models write both, and one ends. */
        fun spaced(pattern: Pattern): Expression = Terminal(Pattern.Sequence(listOf(pattern, SPACE)))
    }
}

/** How deep rules can be within one another: an answer that is nested deeper is not closed in time by any model. */
internal const val MOST_LEVELS = 16

/**
 * The fewest bytes that expressions take, with so many levels left. Without levels a rule takes [NEVER]: so nothing
 * begins that would have to go too deep.
 */
internal class Lengths(private val terminals: (Expression) -> Position) {
    private val known = HashMap<Expression, IntArray>()

    fun of(expression: Expression, levels: Int): Int {
        if (expression is Expression.Repeat) { // made anew for each count
            if (expression.min == 0) return 0
            return minOf(NEVER.toLong(), of(expression.body, levels).toLong() * expression.min).toInt()
        }
        val lengths = known.getOrPut(expression) { IntArray(MOST_LEVELS + 1) { -1 } }
        if (lengths[levels] < 0) lengths[levels] = measure(expression, levels)
        return lengths[levels]
    }

    private fun measure(expression: Expression, levels: Int): Int =
        when (expression) {
            is Expression.Terminal, is Expression.StringRest -> terminals(expression).distance
            is Expression.Sequence -> expression.parts.fold(0) { length, part -> sum(length, of(part, levels)) }
            is Expression.Choice -> expression.options.minOfOrNull { of(it, levels) } ?: NEVER
            is Expression.Rule -> if (levels == 0) NEVER else of(expression.body, levels - 1)
            is Expression.Repeat -> of(expression, levels)
        }
}
