package org.etpipeline.core.grammar

import java.io.ByteArrayOutputStream
import kotlin.random.Random
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue

/** All bytes, a special token among them. */
internal val BYTES = Vocabulary(List(256) { byteArrayOf(it.toByte()) } + null)

/** Bytes, a special token, and what a text of JSON has most often: pieces of many characters and halves of one. */
internal val PIECES: Vocabulary by lazy {
    val text = SCHEMAS.values.joinToString("\n") + """{"name":"Ann","tags":["a","b"],"items":[{"id":1},{"id":22}]} """ +
        """[{"a": "x", "b": [1, 2.5, -3e10]}, {"a": null}, true, false, "\n\t\"\\\u00e9\ud83d\ude00"] """ +
        "äöü été 日本語 😀😁🐀 " +
        "He said that she had seen the other children in the garden, and nobody knew where they had gone since then. "
    val bytes = text.toByteArray()
    val counts = HashMap<List<Byte>, Int>()
    for (length in 2..6) {
        for (start in 0..bytes.size - length) counts.merge(bytes.slice(start until start + length), 1, Int::plus)
    }
    val frequent = counts.entries.sortedWith(compareBy({ -it.value }, { it.key.toString() })).take(2000)
    val chosen = """":" "},{" ": " "]} ", }}} \ud83d \u 00000000 [[ ":{""".split(' ') + listOf(" \"", "\": \"")
    val halves = listOf("😀".toByteArray().copyOf(2), "😀".toByteArray().copyOfRange(2, 4), "x日".toByteArray().copyOf(3))
    val letters = List(2000) { index -> "${'a' + index % 26}${'a' + index / 26 % 26}${'a' + index / 676}" }
    Vocabulary(
        BYTES.tokens + frequent.map { it.key.toByteArray() } + (chosen + letters).map { it.toByteArray() } + halves +
            listOf(ByteArray(0), null),
    )
}

/** Chooses tokens by random logits, like a model that knows nothing. */
internal class GrammarSampler(private val vocabulary: Vocabulary, private val random: Random) {
    private val logits = FloatArray(1 shl 14) { random.nextFloat() }

    /**
     * One answer of at most [most] tokens.
     *
     * @param patience 0: ends as soon as it may; 1: only when it must.
     */
    fun answer(grammar: Grammar, most: Int, patience: Float): String =
        answer(grammar.constraint(vocabulary), most, patience)

    fun answer(constraint: Constraint, most: Int, patience: Float): String {
        val written = ByteArrayOutputStream()
        var left = maxOf(most, constraint.tokensToEnd)
        while (left > 0 && !constraint.isDone && (!constraint.mayEnd || random.nextFloat() < patience)) {
            val token = choose(constraint, left--)
            if (token == null) {
                assertTrue(constraint.mayEnd)
                break
            }
            assertFalse(vocabulary.tokens[token]?.isEmpty() ?: true)
            constraint.accept(token)
            written.write(vocabulary.tokens[token]!!)
        }
        assertTrue(constraint.mayEnd)
        return written.toByteArray().decodeToString(throwOnInvalidSequence = true)
    }

    private fun choose(constraint: Constraint, left: Int): Int? {
        val mask = constraint.mask(left)
        val shift = random.nextInt(logits.size)
        var best: Int? = null
        var token = mask.nextSetBit(0)
        while (token >= 0) {
            if (best == null || logit(token + shift) > logit(best + shift)) best = token
            token = mask.nextSetBit(token + 1)
        }
        return best
    }

    private fun logit(index: Int) = logits[index % logits.size]
}
