package org.etpipeline.core.grammar

import java.util.BitSet

/** The state of one answer that is held to a [Grammar]: ask for the [mask], choose a token, [accept] it. */
interface Constraint {
    /** Whether the answer may end here. */
    val mayEnd: Boolean

    /** Whether nothing may follow any more. */
    val isDone: Boolean

    /**
     * Tokens that may come next; do not change it. It is empty only if the answer may end here.
     *
     * @param tokensLeft how many tokens the answer may still have, this one among them (its end-of-text token not). Only
     *   such are allowed then after which it can be ended in time, even with tokens of one byte each.
     * @throws IllegalStateException if the answer cannot be ended within [tokensLeft].
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

    override fun mask(tokensLeft: Int): BitSet {
        check(state.distance <= tokensLeft) {
            "the answer takes up to ${state.distance} tokens to its end, and $tokensLeft are left"
        }
        return synchronized(matcher) { matcher.mask(state, minOf(tokensLeft - 1, NEVER)) }
    }

    override fun accept(token: Int) {
        val next = synchronized(matcher) { matcher.next(state, token) }
        state = requireNotNull(next) { "token $token is not allowed here" }
    }
}
