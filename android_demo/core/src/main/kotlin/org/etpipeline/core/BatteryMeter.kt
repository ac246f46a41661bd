package org.etpipeline.core

import kotlin.math.abs

/** What answers took from the battery; or why there is no figure, as a report names it. */
sealed class BatteryUse(val name: String) {
    /** The phone has no charge counter. */
    data object Unknown : BatteryUse("no counter")

    /** The phone was being charged. */
    data object Plugged : BatteryUse("charging")

    /** The counter has not moved often enough, or too few tokens were generated: a figure would be chance. */
    data object TooLittle : BatteryUse("too little")

    data class Measured(val mahPer1000Tokens: Double, val joulesPerToken: Double) : BatteryUse("measured")
}

/**
 * Adds up what the battery lost while tokens were generated.
 *
 * Charge counters move in steps, of a thousandth of a milliampere hour on some phones and of a hundredth of the battery
 * on others. The smallest move that was seen stands for the step, and the figure counts once the sum is [LEAST_STEPS]
 * of it: then a step more or less changes it by a fifth at most.
 */
class BatteryMeter {
    private var tokens = 0L
    private var microAh = 0L
    private var joules = 0.0
    private var step = Long.MAX_VALUE
    private var why: BatteryUse = BatteryUse.Unknown // there is no figure

    /** Adds [tokens] that were generated between two readings. */
    @Synchronized
    fun add(before: BatteryReading?, after: BatteryReading?, tokens: Long) {
        if (before == null || after == null) return
        if (before.plugged || after.plugged) {
            why = BatteryUse.Plugged
            return
        }
        why = BatteryUse.TooLittle
        val lost = before.chargeMicroAh - after.chargeMicroAh
        if (lost != 0L) step = minOf(step, abs(lost))
        microAh += lost
        joules += lost / 1e6 * 3600 * (before.millivolts + after.millivolts) / 2000.0
        this.tokens += tokens
    }

    /** What is known so far. */
    @get:Synchronized
    val use: BatteryUse
        get() {
            if (tokens < LEAST_TOKENS || step == Long.MAX_VALUE || microAh < LEAST_STEPS * step) return why
            return BatteryUse.Measured(mahPer1000Tokens = microAh.toDouble() / tokens, joulesPerToken = joules / tokens)
        }

    companion object {
        const val LEAST_STEPS = 5
        const val LEAST_TOKENS = 256L
    }
}
