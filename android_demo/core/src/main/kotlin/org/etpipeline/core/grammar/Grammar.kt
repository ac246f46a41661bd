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
        if (!hasAnswer) throw GrammarException("$name: no answer fits it within $MOST_LEVELS levels")
    }

    /**
     * Begins an answer. A byte that has no token of its own is never written.
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
         * Some of what a schema takes is never written, so that every answer is a good one and ends: properties come in
         * the order in which they stand; where there are `properties`, others come only if `additionalProperties` asks
         * for them, and last; without a `type` the keywords say which; items beyond `prefixItems` come only if `items`
         * asks for them; numbers have at most 15 digits on either side of the point; rules are within one another at
         * most 16 times. `oneOf` is taken as `anyOf`: it is the schema's affair that no two of it take the same.
         *
         * @throws GrammarException if it has a keyword that an answer cannot be held to; none is passed over.
         */
        fun ofJsonSchema(schema: JsonElement): Grammar = Grammar(SchemaReader(schema).read(), "schema")
    }
}
