package org.etpipeline.core.grammar

import java.math.BigDecimal
import java.math.RoundingMode.CEILING
import java.math.RoundingMode.FLOOR

/** Digits of the longest integer, and behind a point: what a double keeps, and a model does not go on forever. */
private const val MOST_DIGITS = 15
private const val GREATEST = 999_999_999_999_999L

internal val NUMBER: Pattern =
    readRegex("-?(0|[1-9][0-9]{0,${MOST_DIGITS - 1}})(\\.[0-9]{1,$MOST_DIGITS})?([eE][+-]?[0-9]{1,2})?")

/** Integers between two bounds, themselves included; null: there are none. A missing bound is the longest number. */
internal fun integersBetween(min: BigDecimal?, max: BigDecimal?): Pattern? {
    val low = min?.setScale(0, CEILING).clamped(-GREATEST)
    val high = max?.setScale(0, FLOOR).clamped(GREATEST)
    val options = mutableListOf<Pattern>()
    if (low < 0 && low <= high) options += negative(integers(maxOf(1, -high), -low))
    if (high >= 0 && low <= high) options += integers(maxOf(0, low), high)
    return if (options.isEmpty()) null else Pattern.Choice(options)
}

/**
 * Numbers between two whole bounds, themselves included, without an exponent; null: there are none.
 *
 * All that begins with an integer below the upper bound may have a fraction; the bound itself may have zeros.
 */
internal fun numbersBetween(min: BigDecimal?, max: BigDecimal?): Pattern? {
    val low = min.clamped(-GREATEST)
    val high = max.clamped(GREATEST)
    val options = mutableListOf<Pattern>()
    if (low < 0 && low <= high) options += negative(magnitudes(maxOf(0, -high), -low))
    if (high >= 0 && low <= high) options += magnitudes(maxOf(0, low), high)
    return if (options.isEmpty()) null else Pattern.Choice(options)
}

private fun BigDecimal?.clamped(ifMissing: Long): Long =
    this?.max(BigDecimal(-GREATEST))?.min(BigDecimal(GREATEST))?.toLong() ?: ifMissing

private fun negative(pattern: Pattern): Pattern = Pattern.Sequence(listOf(Pattern.text("-"), pattern))

private fun magnitudes(low: Long, high: Long): Pattern {
    val end = Pattern.Sequence(listOf(integers(high, high), readRegex("(\\.0{1,$MOST_DIGITS})?")))
    if (low == high) return end
    val fraction = readRegex("(\\.[0-9]{1,$MOST_DIGITS})?")
    return Pattern.Choice(listOf(Pattern.Sequence(listOf(integers(low, high - 1), fraction)), end))
}

/** From 0 on; length by length, as numbers of one length are in the order of their digits. */
private fun integers(low: Long, high: Long): Pattern {
    val options = mutableListOf<Pattern>()
    var first = 0L
    var last = 9L
    while (first <= high) {
        if (last >= low) options += ofOneLength(maxOf(low, first).toString(), minOf(high, last).toString())
        first = last + 1
        last = last * 10 + 9
    }
    return Pattern.Choice(options)
}

private fun ofOneLength(low: String, high: String): Pattern {
    val rest = low.length - 1
    if (low.all { it == '0' } && high.all { it == '9' }) return readRegex("[0-9]{${low.length}}")
    if (low[0] == high[0]) {
        val behind = if (rest == 0) Pattern.EMPTY else ofOneLength(low.drop(1), high.drop(1))
        return Pattern.Sequence(listOf(Pattern.text(low.take(1)), behind))
    }
    if (rest == 0) return readRegex("[$low-$high]")
    val options = mutableListOf<Pattern>(
        Pattern.Sequence(listOf(Pattern.text(low.take(1)), ofOneLength(low.drop(1), "9".repeat(rest)))),
        Pattern.Sequence(listOf(Pattern.text(high.take(1)), ofOneLength("0".repeat(rest), high.drop(1)))),
    )
    if (high[0] - low[0] > 1) options += readRegex("[${low[0] + 1}-${high[0] - 1}][0-9]{$rest}")
    return Pattern.Choice(options)
}
