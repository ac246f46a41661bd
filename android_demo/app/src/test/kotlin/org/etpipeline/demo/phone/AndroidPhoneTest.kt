package org.etpipeline.demo.phone

import android.app.ActivityManager
import android.app.Application
import android.content.Intent
import android.os.BatteryManager
import android.os.Looper
import android.os.PowerManager
import androidx.test.core.app.ApplicationProvider
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BatteryReading
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowBuild

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = Application::class)
class AndroidPhoneTest {
    private val app: Application = ApplicationProvider.getApplicationContext()
    private val phone by lazy { AndroidPhone(app) }

    private inline fun <reified T> service(): T = app.getSystemService(T::class.java)

    private fun charge(microAh: Int) =
        shadowOf(service<BatteryManager>()).setIntProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER, microAh)

    @Suppress("DEPRECATION") // apps may not send it, but the system does
    private fun say(plugged: Int, millivolts: Int = 3_900) = app.sendStickyBroadcast(
        Intent(Intent.ACTION_BATTERY_CHANGED)
            .putExtra(BatteryManager.EXTRA_PLUGGED, plugged)
            .putExtra(BatteryManager.EXTRA_VOLTAGE, millivolts),
    )

    @Test
    fun `its name is what people call it`() {
        ShadowBuild.setManufacturer("acme")
        ShadowBuild.setModel("One 7")
        assertEquals("Acme One 7", phone.name)
    }

    @Test
    fun `memory is what the system says at that moment`() {
        val memory = ActivityManager.MemoryInfo().apply {
            totalMem = 5_900_000_000
            availMem = 2_100_000_000
        }
        shadowOf(service<ActivityManager>()).setMemoryInfo(memory)
        assertEquals(5_900_000_000L to 2_100_000_000L, phone.totalRam to phone.freeRam)
        memory.availMem = 300_000_000
        shadowOf(service<ActivityManager>()).setMemoryInfo(memory)
        assertEquals(300_000_000, phone.freeRam)
    }

    @Test
    fun `each thermal status has its word`() {
        val words = mapOf(
            PowerManager.THERMAL_STATUS_NONE to "none",
            PowerManager.THERMAL_STATUS_LIGHT to "light",
            PowerManager.THERMAL_STATUS_MODERATE to "moderate",
            PowerManager.THERMAL_STATUS_SEVERE to "severe",
            PowerManager.THERMAL_STATUS_CRITICAL to "critical",
            PowerManager.THERMAL_STATUS_EMERGENCY to "emergency",
            PowerManager.THERMAL_STATUS_SHUTDOWN to "shutdown",
        )
        val found = words.mapValues { (status, _) ->
            shadowOf(service<PowerManager>()).setCurrentThermalStatus(status)
            phone.thermalStatus()
        }
        assertEquals(words, found)
    }

    @Test
    fun `who listens hears of each change, and no longer than it listens`() = runBlocking {
        val power = shadowOf(service<PowerManager>())
        val heard = mutableListOf<String?>()
        val listening = launch(Dispatchers.Unconfined) { phone.heat.collect { heard += it } }
        for (status in listOf(PowerManager.THERMAL_STATUS_SEVERE, PowerManager.THERMAL_STATUS_LIGHT)) {
            power.setCurrentThermalStatus(status)
            shadowOf(Looper.getMainLooper()).idle()
        }
        assertEquals(listOf("none", "severe", "light"), heard.distinct())
        listening.cancel()
        power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_CRITICAL)
        shadowOf(Looper.getMainLooper()).idle()
        assertEquals("light", heard.last())
    }

    @Test
    fun `a battery is read with its charge and voltage`() {
        charge(2_345_678)
        say(plugged = 0)
        assertEquals(BatteryReading(2_345_678, 3_900, plugged = false), phone.battery())
    }

    @Test
    fun `every kind of charging counts as plugged in`() {
        charge(2_345_678)
        val ways = listOf(
            BatteryManager.BATTERY_PLUGGED_AC,
            BatteryManager.BATTERY_PLUGGED_USB,
            BatteryManager.BATTERY_PLUGGED_WIRELESS,
            BatteryManager.BATTERY_PLUGGED_DOCK,
        )
        for (way in ways) {
            say(way)
            assertEquals("$way", true, phone.battery()?.plugged)
        }
        say(plugged = 0)
        assertEquals(false, phone.battery()?.plugged)
    }

    @Test
    fun `without a charge counter there is no reading`() {
        say(plugged = 0)
        for (answer in listOf(Int.MIN_VALUE, 0, -1)) {
            charge(answer)
            assertNull("$answer", phone.battery())
        }
    }

    @Test
    fun `without a voltage there is no reading`() {
        charge(2_345_678)
        assertNull(phone.battery())
        say(plugged = 0, millivolts = 0)
        assertNull(phone.battery())
    }
}
