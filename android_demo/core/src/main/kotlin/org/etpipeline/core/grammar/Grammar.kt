package org.etpipeline.core.grammar

import kotlinx.serialization.json.JsonElement

/** A regular expression or a schema has something that an answer cannot be held to; the message is one sentence. */
class GrammarException(message: String) : Exception(message)

/**
 * What an answer has to look like: JSON of a schema, or a regular expression.
 *
 * A grammar keeps what it has found out about the vocabulary of before: so make it once and use it for many answers.
 */
class Grammar private constructor(private val root: Expression, name: String) {
    private var last: Pair<Vocabulary, Matcher>? = null

    init {
        val hasAnswer = Matcher(root, ALL_BYTES).start.stacks.isNotEmpty()
        if (!hasAnswer) throw GrammarException("$name: there is no answer that fits, or none within $MOST_LEVELS levels")
    }

    /**
     * Begins an answer.
     *
     * @throws IllegalArgumentException if no answer can be written with this vocabulary.
     */
    @Synchronized
    fun constraint(vocabulary: Vocabulary): Constraint {
        val matcher = last?.takeIf { it.first === vocabulary }?.second ?: Matcher(root, vocabulary)
        require(matcher.start.stacks.isNotEmpty()) {
            val missing = (0..255).filterNot { vocabulary.bytes[it] }.joinToString(" ") { "%02X".format(it) }
            "no answer can be written with this vocabulary: it lacks tokens for the single bytes $missing"
        }
        last = vocabulary to matcher
        return MatcherConstraint(matcher)
    }

    companion object {
        private val ALL_BYTES = Vocabulary(List(256) { byteArrayOf(it.toByte()) })

        /**
         * The answer as a whole matches [pattern]: literals, classes, `\d \w \s . ( ) | * + ? {m,n}` and escapes, as
         * Java understands them. No look-around, references, possessive quantifiers or Unicode categories.
         *
         * @throws GrammarException if there is anything else in it.
         */
        fun ofRegex(pattern: String): Grammar = Grammar(Expression.Terminal(readRegex(pattern)), "pattern")

        /**
         * The answer is JSON that [schema] takes, without white space but a space at most behind `:` and `,`.
         *
         * Some of what a schema takes is left out, so that every answer is a good one and ends: properties come in the
         * order in which they are written; where there are `properties`, others come only if `additionalProperties` asks
         * for them, and behind them; `oneOf` is taken as `anyOf`; numbers have at most 15 digits on either side;
         * rules are within one another at most 16 times.
         *
         * @throws GrammarException if it has a keyword that an answer cannot be held to; none is passed over.
         */
        fun ofJsonSchema(schema: JsonElement): Grammar = Grammar(SchemaReader(schema).read(), "schema")
    }
}
