package org.etpipeline.core

import org.junit.Assert.assertEquals
import org.junit.Test

class BatteryMeterTest {
    private val meter = BatteryMeter()
    private var charge = 3_000_000L

    /** An answer of so many tokens that takes so much. */
    private fun answer(tokens: Long, microAh: Long, plugged: Boolean = false) {
        val before = BatteryReading(charge, 4_000, plugged)
        charge -= microAh
        meter.add(before, BatteryReading(charge, 4_000, plugged), tokens)
    }

    @Test
    fun `without a counter nothing is known`() {
        assertEquals(BatteryUse.Unknown, meter.use)
        meter.add(null, null, 10_000)
        assertEquals(BatteryUse.Unknown, meter.use)
    }

    @Test
    fun `a figure comes with the fifth step, and enough tokens`() {
        repeat(4) {
            answer(tokens = 100, microAh = 500)
            assertEquals("${it + 1}", BatteryUse.TooLittle, meter.use)
        }
        answer(tokens = 100, microAh = 500)
        // 2.5 mAh at 4 V are 36 J.
        assertEquals(BatteryUse.Measured(mahPer1000Tokens = 5.0, joulesPerToken = 0.072), meter.use)
    }

    @Test
    fun `few tokens are none`() {
        repeat(10) { answer(tokens = 25, microAh = 500) }
        assertEquals(BatteryUse.TooLittle, meter.use)
        answer(tokens = 25, microAh = 500)
        assertEquals(20.0, (meter.use as BatteryUse.Measured).mahPer1000Tokens, 1e-9)
    }

    @Test
    fun `a counter that jumps by a hundredth of the battery needs five of them`() {
        repeat(4) {
            repeat(9) { answer(tokens = 100, microAh = 0) }
            answer(tokens = 100, microAh = 40_000)
        }
        assertEquals(BatteryUse.TooLittle, meter.use)
        repeat(10) { answer(tokens = 100, microAh = if (it == 9) 40_000 else 0) }
        assertEquals(40.0, (meter.use as BatteryUse.Measured).mahPer1000Tokens, 1e-9)
    }

    @Test
    fun `answers while charging do not count, and it says that the phone is charged`() {
        repeat(10) { answer(tokens = 100, microAh = -900, plugged = true) }
        assertEquals(BatteryUse.Plugged, meter.use)
        repeat(5) { answer(tokens = 100, microAh = 500) }
        assertEquals(5.0, (meter.use as BatteryUse.Measured).mahPer1000Tokens, 1e-9)
    }

    @Test
    fun `a counter that goes up by itself gives no figure`() {
        repeat(10) { answer(tokens = 100, microAh = -500) }
        assertEquals(BatteryUse.TooLittle, meter.use)
    }
}
