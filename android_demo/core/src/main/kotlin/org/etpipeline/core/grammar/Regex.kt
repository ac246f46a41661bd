package org.etpipeline.core.grammar

/** A regular expression over characters, as a tree. */
internal sealed interface Pattern {
    class Characters(val set: CodePoints) : Pattern

    class Sequence(val parts: List<Pattern>) : Pattern

    class Choice(val options: List<Pattern>) : Pattern

    /** @property max null: as often as one likes. */
    class Repeat(val body: Pattern, val min: Int, val max: Int?) : Pattern

    companion object {
        val EMPTY: Pattern = Sequence(emptyList())
        val ANYTHING: Pattern = Repeat(Characters(CodePoints.ALL), 0, null)

        fun sequence(vararg parts: Pattern): Pattern =
            parts.filter { it !== EMPTY }.let { it.singleOrNull() ?: Sequence(it) }

        fun choice(options: List<Pattern>): Pattern = options.singleOrNull() ?: Choice(options)

        fun text(text: String): Pattern =
            Sequence(text.codePoints().toArray().map { Characters(CodePoints.of(it..it)) })

        /** Every text but [texts]. */
        fun allBut(texts: List<String>): Pattern = allBut(texts.map { it.codePoints().toArray().toList() }.toSet())

        private fun allBut(texts: Set<List<Int>>): Pattern {
            val longer = texts.filter { it.isNotEmpty() }.groupBy({ it.first() }, { it.drop(1) })
            val others = CodePoints.ALL - CodePoints.of(*longer.keys.map { it..it }.toTypedArray())
            val options = mutableListOf<Pattern>(Sequence(listOf(Characters(others), ANYTHING)))
            if (emptyList<Int>() !in texts) options += EMPTY
            for ((first, rests) in longer) {
                options += Sequence(listOf(Characters(CodePoints.of(first..first)), allBut(rests.toSet())))
            }
            return Choice(options)
        }
    }
}

private val SHORT_ESCAPES =
    mapOf('"'.code to "\\\"", '\\'.code to "\\\\", 8 to "\\b", 12 to "\\f", 10 to "\\n", 13 to "\\r", 9 to "\\t")
private val ESCAPED = CodePoints.of(0..0x1F) + CodePoints.of("\"\\")

/**
 * The same texts as they stand between the quotes of a JSON string.
 *
 * Each character in one way only, escaped where it must be: so that texts which differ here differ as JSON, too.
 */
internal fun Pattern.inJson(): Pattern =
    when (this) {
        is Pattern.Characters -> charactersInJson(set)
        is Pattern.Sequence -> Pattern.Sequence(parts.map { it.inJson() })
        is Pattern.Choice -> Pattern.Choice(options.map { it.inJson() })
        is Pattern.Repeat -> Pattern.Repeat(body.inJson(), min, max)
    }

private fun charactersInJson(set: CodePoints): Pattern {
    val plain = set - ESCAPED
    val escapes = ESCAPED.ranges.flatten().filter { it in set }
    if (escapes.isEmpty()) return Pattern.Characters(plain)
    val texts = escapes.map { Pattern.text(SHORT_ESCAPES[it] ?: "\\u%04x".format(it)) }
    return Pattern.Choice(listOf(Pattern.Characters(plain)) + texts)
}

private const val HEX = "[0-9A-Fa-f]"

/** One character of a JSON string in every way it may be written; of a pair of surrogates both or none. */
internal val JSON_CHARACTER: Nfa by lazy {
    val ways = listOf(
        Pattern.Characters(CodePoints.ALL - ESCAPED),
        readRegex("""\\["\\/bfnrt]"""),
        readRegex("""\\u([0-9A-CEFa-cef]$HEX{3}|[Dd][0-7]$HEX{2})"""),
        readRegex("""\\u[Dd][89ABab]$HEX{2}\\u[Dd][C-Fc-f]$HEX{2}"""),
    )
    Nfa(Pattern.Choice(ways))
}
