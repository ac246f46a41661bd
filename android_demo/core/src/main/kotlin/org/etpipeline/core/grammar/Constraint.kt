package org.etpipeline.core.grammar

import java.util.BitSet

/**
 * The state of one answer that is held to a [Grammar]: ask for the [mask], choose a token, [accept] it.
 *
 * Each belongs to one thread at a time. The first masks over a large vocabulary take longer than those after: whoever
 * asks for one while the model is loading warms up.
 */
interface Constraint {
    /** Whether the answer may end here. */
    val mayEnd: Boolean

    /** Whether nothing may follow any more. */
    val isDone: Boolean

    /** With so many more tokens the answer can be ended in any case: one for each byte of the shortest end. */
    val tokensToEnd: Int

    /**
     * Tokens that may come next; do not change it. It is empty only if the answer may end here.
     *
     * @param tokensLeft how many tokens the answer may still have, with this one, without an end-of-text token. With
     *   few left only such are allowed after which it can still be ended.
     * @throws IllegalStateException if these are less than [tokensToEnd].
     */
    fun mask(tokensLeft: Int = Int.MAX_VALUE): BitSet

    /** @throws IllegalArgumentException if the token was not allowed. */
    fun accept(token: Int)
}

/** Constraints of one grammar take turns on what they have in common. */
internal class MatcherConstraint(private val matcher: Matcher) : Constraint {
    private var state = matcher.start

    override val mayEnd: Boolean get() = state.mayEnd

    override val isDone: Boolean get() = !state.goesOn

    override val tokensToEnd: Int get() = state.distance

    override fun mask(tokensLeft: Int): BitSet {
        check(tokensToEnd <= tokensLeft) { "the answer takes up to $tokensToEnd more tokens, and $tokensLeft are left" }
        return synchronized(matcher) { matcher.mask(state, minOf(tokensLeft - 1, NEVER)) }
    }

    override fun accept(token: Int) {
        val next = synchronized(matcher) { matcher.next(state, token) }
        state = requireNotNull(next) { "token $token is not allowed here" }
    }
}
