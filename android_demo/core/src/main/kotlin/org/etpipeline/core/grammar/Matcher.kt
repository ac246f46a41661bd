package org.etpipeline.core.grammar

import java.util.BitSet

private const val MOST_WALKS = 128
private const val MOST_MASKS = 64
private const val MOST_STACKS = 512
private const val MANY_STACKS = 32 // may become too many within a token
private const val MOST_OBJECTS = 20_000 // of up to 1.3 kB

/**
 * A grammar over a vocabulary: a pushdown automaton whose states are sets of stacks, made as they are met.
 *
 * Only such stacks are kept as can be emptied with tokens of one byte each. So there is always a way on, and how many
 * tokens it takes at most is known.
 */
internal class Matcher(root: Expression, private val vocabulary: Vocabulary) {
    private val tree = vocabulary.tree
    private val automata = HashMap<Expression, Automaton>()
    private val strings = HashMap<Nfa, StringBody>()
    private val lengths = Lengths(::startOf)
    private var frames = HashMap<Frame, Frame>()
    private var states = HashMap<Set<Frame>, State>()
    private val walks = recent<Position, Walk>(MOST_WALKS)
    private val masks = recent<State, Mask>(MOST_MASKS)
    private val along = arrayOfNulls<State>(tree.depth + 1)
    private var isCrowded = false // some state had too many stacks
    private val bottom = Frame(Expression.EMPTY, null, 0, 0)

    /** Where an answer begins; without stacks if no answer can be written with this vocabulary. */
    val start: State = stateOf(listOfNotNull(push(root, bottom, 0)).flatMap(::expand))

    /**
     * What is still to come: on top of [rest] a position in a terminal or an expression that has not begun.
     *
     * @property depth rules that it is in.
     * @property distance the fewest bytes until all is done.
     */
    class Frame(val top: Any, val rest: Frame?, val depth: Int, val distance: Int) {
        var opened: State? = null

        override fun equals(other: Any?) =
            other is Frame && top == other.top && rest === other.rest && depth == other.depth

        override fun hashCode() = (top.hashCode() * 31 + System.identityHashCode(rest)) * 31 + depth
    }

    /** All that an answer may be in the middle of. */
    inner class State(val stacks: Set<Frame>) {
        private val next = arrayOfNulls<State>(256)
        val distance = stacks.minOfOrNull { it.distance } ?: NEVER
        val mayEnd get() = distance == 0
        val goesOn = stacks.any { it.top is Position }

        /** The state after a byte; null: the byte is not allowed. */
        fun next(byte: Int): State? {
            val state = next[byte] ?: step(this, byte).also { next[byte] = it }
            return state.takeIf { it.stacks.isNotEmpty() }
        }
    }

    /** Tokens that may come next and the longest way to the end from where one of them leads. */
    class Mask(val tokens: BitSet, var farthest: Int = 0)

    /** The state after a token; null: it is not allowed. */
    fun next(state: State, token: Int): State? {
        val bytes = vocabulary.tokens.getOrNull(token)?.takeIf { it.isNotEmpty() } ?: return null
        return bytes.fold(state as State?) { at, byte -> at?.next(byte.toInt() and 0xFF) }
    }

    /** Tokens after which the answer can be ended with [left] more. */
    fun mask(state: State, left: Int): BitSet {
        if (size > MOST_OBJECTS) forget()
        val mask = masks.getOrPut(state) { makeMask(state, NEVER) }
        return if (mask.farthest <= left) mask.tokens else makeMask(state, left).tokens
    }

    private val size: Int
        get() = frames.size + states.size + automata.values.sumOf { it.size } + strings.values.sumOf { it.size }

    private fun makeMask(state: State, left: Int): Mask {
        val mask = Mask(BitSet(vocabulary.tokens.size))
        for (stack in state.stacks) if (stack.top is Position) add(stack.top, checkNotNull(stack.rest), left, mask)
        if (isCrowded || state.stacks.size > MANY_STACKS) removeLost(state, left, mask.tokens)
        return mask
    }

    /** Removes the tokens that lead to a stack which is given up before they end. */
    private fun removeLost(state: State, left: Int, tokens: BitSet) {
        var token = tokens.nextSetBit(0)
        while (token >= 0) {
            val isKept = next(state, token)?.let { it.distance <= left } == true
            if (!isKept) tokens.clear(token)
            token = tokens.nextSetBit(token + 1)
        }
    }

    private fun add(top: Position, rest: Frame, left: Int, mask: Mask) {
        val walk = walks.getOrPut(top.uncounted) { Walk(top.uncounted, tree) }
        for (group in walk.groups) {
            val distance = sum(top.distanceOf(group.length, group.unfinished), rest.distance)
            if (distance >= NEVER || distance > left) continue
            group.addTo(mask.tokens)
            mask.farthest = maxOf(mask.farthest, distance)
        }
        val behind = opened(rest)
        for (index in walk.exits.indices) {
            if (top.mayEndAfter(walk.lengths[index])) addBelow(walk.exits[index], behind, left, mask)
        }
    }

    /** Adds the tokens of a node and of those below it, from the state that has come to the node. */
    private fun addBelow(from: Int, state: State, left: Int, mask: Mask) {
        addTokens(from, state, left, mask)
        along[tree.depth(from)] = state
        var node = from + 1
        val end = tree.end(from)
        while (node < end) {
            val depth = tree.depth(node)
            val next = along[depth - 1]?.next(tree.byte(node))
            if (next == null) {
                node = tree.end(node)
                continue
            }
            along[depth] = next
            addTokens(node, next, left, mask)
            node++
        }
    }

    private fun addTokens(node: Int, state: State, left: Int, mask: Mask) {
        if (state.distance > left || tree.first(node) == tree.first(node + 1)) return
        tree.forTokens(node) { mask.tokens.set(it) }
        mask.farthest = maxOf(mask.farthest, state.distance)
    }

    private fun step(state: State, byte: Int): State {
        val stacks = LinkedHashSet<Frame>()
        for (stack in state.stacks) {
            val next = (stack.top as? Position)?.next(byte) ?: continue
            val rest = checkNotNull(stack.rest)
            if (next.goesOn) frame(next, rest, stack.depth, next.distance)?.let(stacks::add)
            if (next.accepts) stacks += opened(rest).stacks
        }
        return stateOf(stacks)
    }

    /** The state in which what is on top begins. */
    private fun opened(frame: Frame): State = frame.opened ?: stateOf(expand(frame)).also { frame.opened = it }

    /** The stacks with a terminal on top, or nothing at all, that a stack stands for. */
    private fun expand(frame: Frame): Collection<Frame> {
        val rest = frame.rest ?: return listOf(frame)
        return when (val top = frame.top) {
            is Expression.Terminal, is Expression.StringRest -> begin(startOf(top), frame, rest)
            is Expression.Sequence -> {
                var whole: Frame? = rest
                for (part in top.parts.asReversed()) whole = whole?.let { push(part, it, frame.depth) }
                whole?.let(::expand).orEmpty()
            }
            is Expression.Choice -> top.options.mapNotNull { push(it, rest, frame.depth) }.flatMap(::expand)
            is Expression.Rule -> push(top.body, rest, frame.depth + 1)?.let(::expand).orEmpty()
            is Expression.Repeat -> expandRepeat(top, frame, rest)
            else -> listOf(frame)
        }
    }

    private fun begin(position: Position, frame: Frame, rest: Frame): Collection<Frame> {
        val begun = if (position.goesOn) frame(position, rest, frame.depth, position.distance) else null
        return listOfNotNull(begun) + if (position.accepts) opened(rest).stacks else emptySet()
    }

    private fun expandRepeat(repeat: Expression.Repeat, frame: Frame, rest: Frame): Collection<Frame> {
        val without = if (repeat.min == 0) opened(rest).stacks else emptySet()
        if (repeat.max == 0) return without
        val fewer = Expression.Repeat(repeat.body, maxOf(0, repeat.min - 1), repeat.max?.minus(1))
        val once = push(fewer, rest, frame.depth)?.let { push(repeat.body, it, frame.depth) }
        return without + once?.let(::expand).orEmpty()
    }

    /** Null: it could not be brought to an end. */
    private fun push(expression: Expression, rest: Frame, depth: Int): Frame? =
        if (depth > MOST_LEVELS) null
        else frame(expression, rest, depth, lengths.of(expression, MOST_LEVELS - depth))

    private fun frame(top: Any, rest: Frame, depth: Int, length: Int): Frame? {
        val frame = Frame(top, rest, depth, sum(length, rest.distance))
        return if (frame.distance >= NEVER) null else frames.getOrPut(frame) { frame }
    }

    /**
     * Where a schema offers the same over and over, level within level, the stacks would double with each: those that
     * are nearest to their end do then. What is left is still an answer that fits.
     */
    private fun stateOf(stacks: Collection<Frame>): State {
        var set = stacks.toSet()
        if (set.size > MOST_STACKS) {
            isCrowded = true
            set = set.sortedBy { it.distance }.take(MOST_STACKS).toSet()
        }
        return states.getOrPut(set) { State(set) }
    }

    private fun startOf(expression: Expression): Position =
        when (expression) {
            is Expression.StringRest ->
                strings.getOrPut(expression.character) { stringBody(expression.character) }
                    .start(expression.min, expression.max)
            is Expression.Terminal ->
                automata.getOrPut(expression) { Automaton(expression.nfa, vocabulary.bytes) }.start
            else -> error("$expression is no terminal")
        }

    private fun stringBody(character: Nfa) =
        StringBody(Automaton(character, vocabulary.bytes), hasQuote = vocabulary.bytes['"'.code])

    /** Lets go of all that is not in use: an answer that goes on keeps what it needs. */
    private fun forget() {
        frames = HashMap()
        states = HashMap()
        automata.values.forEach { it.forget() }
        strings.values.forEach { it.forget() }
        walks.clear()
        masks.clear()
    }
}

/** A map that keeps what was used last. */
private fun <K, V> recent(most: Int): LinkedHashMap<K, V> =
    object : LinkedHashMap<K, V>(16, 0.75f, true) {
        override fun removeEldestEntry(eldest: MutableMap.MutableEntry<K, V>?) = size > most
    }
