package org.etpipeline.core.grammar

private const val LAST = 0x10FFFF
private val SURROGATES = 0xD800..0xDFFF // no characters: UTF-8 has no bytes for them

/** A set of characters, as [ranges] in order that neither touch nor overlap. */
internal class CodePoints private constructor(val ranges: List<IntRange>) {
    val isEmpty: Boolean get() = ranges.isEmpty()

    operator fun plus(other: CodePoints): CodePoints = of(ranges + other.ranges)

    operator fun minus(other: CodePoints): CodePoints = !(!this + other)

    /** All characters but these. */
    operator fun not(): CodePoints {
        val gaps = mutableListOf<IntRange>()
        var next = 0
        for (range in of(ranges + listOf(SURROGATES), keepsSurrogates = true).ranges) {
            if (next < range.first) gaps += next until range.first
            next = range.last + 1
        }
        if (next <= LAST) gaps += next..LAST
        return CodePoints(gaps)
    }

    operator fun contains(codePoint: Int): Boolean = ranges.any { codePoint in it }

    companion object {
        val NONE = CodePoints(emptyList())
        val ALL = !NONE

        fun of(vararg ranges: IntRange): CodePoints = of(ranges.toList())

        fun of(characters: String): CodePoints = of(characters.codePoints().toArray().map { it..it })

        private fun of(ranges: List<IntRange>, keepsSurrogates: Boolean = false): CodePoints {
            val merged = mutableListOf<IntRange>()
            for (range in ranges.filter { !it.isEmpty() }.sortedBy { it.first }) {
                val last = merged.lastOrNull()
                if (last == null || range.first > last.last + 1) merged += range
                else merged[merged.lastIndex] = last.first..maxOf(last.last, range.last)
            }
            if (keepsSurrogates) return CodePoints(merged)
            return CodePoints(merged.flatMap { withoutSurrogates(it) })
        }

        private fun withoutSurrogates(range: IntRange): List<IntRange> =
            listOf(
                range.first..minOf(range.last, SURROGATES.first - 1),
                maxOf(range.first, SURROGATES.last + 1)..range.last,
            ).filter { !it.isEmpty() }
    }
}

/** The sequences of byte ranges that are just the UTF-8 of these characters. */
internal fun CodePoints.utf8(): List<List<IntRange>> =
    buildList { for (range in ranges) addUtf8(range.first, range.last, this) }

private val LAST_OF_LENGTH = intArrayOf(0x7F, 0x7FF, 0xFFFF)

/** Cuts a range until all its characters have the same first bytes and every last byte, then adds it. */
private fun addUtf8(first: Int, last: Int, to: MutableList<List<IntRange>>) {
    val cut = LAST_OF_LENGTH.firstOrNull { it in first until last } ?: unevenEnd(first, last)
    if (cut != null) {
        addUtf8(first, cut, to)
        addUtf8(cut + 1, last, to)
        return
    }
    to += encode(first).zip(encode(last)) { low, high -> low..high }
}

/** The last character of the part that has to be apart from the rest of the range; null: none has to. */
private fun unevenEnd(first: Int, last: Int): Int? {
    if (last <= LAST_OF_LENGTH[0]) return null
    for (bytes in 1..3) {
        val mask = (1 shl 6 * bytes) - 1
        if (first or mask == last or mask) continue
        if (first and mask != 0) return first or mask
        if (last and mask != mask) return (last and mask.inv()) - 1
    }
    return null
}

private fun encode(codePoint: Int): List<Int> =
    String(Character.toChars(codePoint)).toByteArray().map { it.toInt() and 0xFF }
