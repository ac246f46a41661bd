package org.etpipeline.core.tokenizer

/**
 * A part of a text.
 *
 * @property isFirst whether it is where the text begins.
 */
internal class Piece(val text: String, val isFirst: Boolean)

/** Cuts a text up into what the model takes for words. */
internal fun interface PreTokenizer {
    fun cut(piece: Piece): List<Piece>

    class Sequence(private val steps: List<PreTokenizer>) : PreTokenizer {
        override fun cut(piece: Piece) = steps.fold(listOf(piece)) { pieces, step -> pieces.flatMap(step::cut) }
    }

    class Split(private val pattern: Pattern, private val behavior: Behavior, private val isInverted: Boolean = false) :
        PreTokenizer {
        override fun cut(piece: Piece): List<Piece> {
            val cuts = Cuts(behavior)
            pattern.eachPiece(piece.text) { start, end, isMatch -> cuts.add(start, end, isMatch != isInverted) }
            return cuts.of(piece)
        }
    }

    class ByteLevel(private val addsSpace: Boolean, private val cuts: Boolean) : PreTokenizer {
        override fun cut(piece: Piece): List<Piece> {
            val text = if (addsSpace && !piece.text.startsWith(' ')) " ${piece.text}" else piece.text
            val words = if (cuts) GPT2.cut(Piece(text, piece.isFirst)) else listOf(Piece(text, piece.isFirst))
            return words.map { Piece(ByteLetters.write(it.text), it.isFirst) }
        }
    }

    class Metaspace(private val mark: Char, private val scheme: Scheme, private val cuts: Boolean) : PreTokenizer {
        override fun cut(piece: Piece): List<Piece> {
            val text = piece.text.replace(' ', mark)
            val isBegun = scheme == Scheme.ALWAYS || scheme == Scheme.FIRST && piece.isFirst
            val whole = Piece(if (isBegun && !text.startsWith(mark)) mark + text else text, piece.isFirst)
            return if (cuts) Split(Literal(mark.toString()), Behavior.MERGED_WITH_NEXT).cut(whole) else listOf(whole)
        }
    }

    companion object {
        private val GPT2 = Split(
            readPattern("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"),
            Behavior.ISOLATED,
        )
        val WHITESPACE_SPLIT: PreTokenizer = Split(OneOf(Chars.SPACE), Behavior.REMOVED)
        val BERT: PreTokenizer = Sequence(listOf(WHITESPACE_SPLIT, punctuation(Behavior.ISOLATED)))

        /** `\w+|[^\w\s]+`, and nothing else. */
        val WHITESPACE: PreTokenizer = Split(WordsOrSigns, Behavior.REMOVED, isInverted = true)

        fun punctuation(behavior: Behavior): PreTokenizer = Split(OneOf(RustChars.PUNCTUATION), behavior)

        fun digits(isEachAlone: Boolean): PreTokenizer =
            Split(OneOf(Chars.NUMBER), if (isEachAlone) Behavior.ISOLATED else Behavior.CONTIGUOUS)
    }
}

/** When a [PreTokenizer.Metaspace] puts its mark before a text that has none. */
internal enum class Scheme { ALWAYS, FIRST, NEVER }

/** What becomes of the matches of a [PreTokenizer.Split]. */
internal enum class Behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS }

private object WordsOrSigns : Pattern() {
    private val signs = !(Chars.RUST_WORD + Chars.SPACE)

    override fun end(text: String, at: Int): Int {
        if (at >= text.length) return -1
        val first = text.codePoint(at)
        val set = listOf(Chars.RUST_WORD, signs).firstOrNull { first in it } ?: return -1
        var from = at
        while (from < text.length && text.codePoint(from) in set) from += Character.charCount(text.codePoint(from))
        return from
    }
}

/** Puts the matches of a pattern, and what lies between them, together as a [Behavior] says. */
private class Cuts(private val behavior: Behavior) {
    private val starts = Ids()
    private val ends = mutableListOf<Int>()
    private var wasMatch = false

    fun add(start: Int, end: Int, isMatch: Boolean) {
        when (behavior) {
            Behavior.REMOVED -> if (!isMatch) append(start, end)
            Behavior.ISOLATED -> append(start, end)
            Behavior.MERGED_WITH_PREVIOUS -> put(start, end, isMatch && !wasMatch && ends.isNotEmpty())
            Behavior.MERGED_WITH_NEXT -> put(start, end, !isMatch && wasMatch)
            Behavior.CONTIGUOUS -> put(start, end, isMatch == wasMatch && ends.isNotEmpty())
        }
        wasMatch = isMatch
    }

    private fun put(start: Int, end: Int, isJoined: Boolean) {
        if (isJoined) ends[ends.lastIndex] = end else append(start, end)
    }

    fun of(piece: Piece): List<Piece> {
        val from = starts.toArray()
        return ends.indices.filter { from[it] < ends[it] }.map { at ->
            Piece(piece.text.substring(from[at], ends[at]), piece.isFirst && from[at] == 0)
        }
    }

    private fun append(start: Int, end: Int) {
        starts.add(start)
        ends += end
    }
}
