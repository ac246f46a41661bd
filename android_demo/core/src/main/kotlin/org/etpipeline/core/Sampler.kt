package org.etpipeline.core

import java.util.BitSet
import java.util.Random
import kotlin.math.exp
import kotlin.math.ln

/**
 * Chooses tokens, with the definitions of transformers' logits processors and in their order: bias, repetition penalty,
 * temperature, top-k, top-p, min-p. Frequency and presence penalty, which transformers lacks, are those of OpenAI's
 * interface and come before the temperature.
 *
 * @param request how to choose.
 */
class Sampler(private val request: GenerationRequest) {
    private val sampling = request.sampling
    private val random = request.seed?.let(::Random) ?: Random()

    /**
     * The next token.
     *
     * @param logits one per token; they are written over.
     * @param context the tokens so far, prompt and answer.
     * @param answer how many of them, the last, are the answer's.
     * @param allowed tokens that may come; null: all.
     * @throws EngineException the logits are no numbers, or nothing is allowed.
     */
    fun next(logits: FloatArray, context: Tokens, answer: Int, allowed: BitSet? = null): Int {
        weigh(logits, context, answer, allowed)
        if (sampling.temperature == 0f) return most(logits)
        return candidates(logits).draw(random.nextDouble())
    }

    /** What can be drawn, and with which weight, of logits that were [weigh]ed. */
    internal fun candidates(logits: FloatArray): Candidates {
        val best = logits[most(logits)]
        for (token in logits.indices) logits[token] = (logits[token] - best) / sampling.temperature
        var ids: IntArray? = null // the most probable first; null: all tokens
        if (sampling.topK in 1 until logits.size) ids = largest(logits, sampling.topK)
        if (sampling.topP < 1f) ids = nucleus(logits, ids)
        val all = ids ?: IntArray(logits.size) { it }
        val least = if (sampling.minP > 0f) ln(sampling.minP) else Float.NEGATIVE_INFINITY // the best one's is 0
        val kept = all.filter { logits[it] >= least && logits[it] != Float.NEGATIVE_INFINITY }.toIntArray()
        return Candidates(kept, DoubleArray(kept.size) { exp(logits[kept[it]].toDouble()) })
    }

    /** Applies to [logits] all that also counts at temperature 0. */
    internal fun weigh(logits: FloatArray, context: Tokens, answer: Int, allowed: BitSet?) {
        if (allowed != null) {
            for (token in logits.indices) if (!allowed[token]) logits[token] = Float.NEGATIVE_INFINITY
        }
        for ((token, bias) in request.logitBias) if (token in logits.indices) logits[token] += bias
        if (sampling.repetitionPenalty != 1f) penalize(logits, context)
        val places = context.size - answer until context.size
        if (request.frequencyPenalty != 0f) for (at in places) logits[context[at]] -= request.frequencyPenalty
        if (request.presencePenalty != 0f) {
            for (token in places.map { context[it] }.toSet()) logits[token] -= request.presencePenalty
        }
    }

    /** Keskar et al. 2019, arXiv:1909.05858: each token that was there before, once. */
    private fun penalize(logits: FloatArray, context: Tokens) {
        val seen = BitSet(logits.size)
        for (at in 0 until context.size) {
            val token = context[at]
            if (token !in logits.indices || seen[token]) continue
            seen.set(token)
            val penalty = sampling.repetitionPenalty
            logits[token] = if (logits[token] < 0) logits[token] * penalty else logits[token] / penalty
        }
    }

    /** Of [among], or of all, those that make up the share of top-p; at least one (Holtzman et al. 2019, arXiv:1904.09751). */
    private fun nucleus(logits: FloatArray, among: IntArray?): IntArray {
        var total = 0.0
        if (among != null) for (token in among) total += exp(logits[token].toDouble())
        else for (logit in logits) total += exp(logit.toDouble())
        var count = if (among != null) among.size else minOf(FIRST_LOOK, logits.size)
        while (true) {
            val sorted = among ?: largest(logits, count)
            var before = 0.0 // of those that are more probable
            for (at in sorted.indices) {
                if (at > 0 && before >= sampling.topP * total) return sorted.copyOf(at)
                before += exp(logits[sorted[at]].toDouble())
            }
            if (sorted.size == logits.size || among != null) return sorted
            count = minOf(4 * count, logits.size)
        }
    }

    private companion object {
        /** So many tokens are sorted first; that they do not make up top-p is seldom. */
        const val FIRST_LOOK = 256
    }
}

/** Tokens, and the weight with which each is drawn; the sum of the weights may be anything. */
internal class Candidates(val ids: IntArray, val weights: DoubleArray) {
    /** The token at a [share] of the weights' sum, 0 until 1. */
    fun draw(share: Double): Int {
        var left = share * weights.sum()
        for (at in ids.indices) {
            left -= weights[at]
            if (left < 0) return ids[at]
        }
        return ids.last()
    }
}

/** The first of the most probable tokens. */
private fun most(logits: FloatArray): Int {
    var best = -1
    for (token in logits.indices) {
        if (logits[token] > (if (best < 0) Float.NEGATIVE_INFINITY else logits[best])) best = token
    }
    if (best < 0 || logits[best].isInfinite()) throw EngineException(Problem.EngineFailed("the model gives no numbers"))
    return best
}

/** The [count] largest by their places, the largest first; of equal ones the first. */
internal fun largest(values: FloatArray, count: Int): IntArray {
    val heap = IntArray(count) // the least of them on top
    var size = 0
    fun isLess(one: Int, other: Int) =
        values[one] < values[other] || (values[one] == values[other] && one > other)
    fun sink(start: Int) {
        var at = start
        while (2 * at + 1 < size) {
            var child = 2 * at + 1
            if (child + 1 < size && isLess(heap[child + 1], heap[child])) child++
            if (!isLess(heap[child], heap[at])) return
            heap[at] = heap[child].also { heap[child] = heap[at] }
            at = child
        }
    }
    for (place in values.indices) {
        if (size < count) {
            heap[size++] = place
            if (size == count) for (at in count / 2 downTo 0) sink(at)
        } else if (isLess(heap[0], place)) {
            heap[0] = place
            sink(0)
        }
    }
    val sorted = IntArray(count)
    while (size > 0) {
        sorted[size - 1] = heap[0]
        heap[0] = heap[--size]
        sink(0)
    }
    return sorted
}
