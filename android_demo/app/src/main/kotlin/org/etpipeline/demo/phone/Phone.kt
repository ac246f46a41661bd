package org.etpipeline.demo.phone

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import androidx.core.content.ContextCompat
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.callbackFlow
import org.etpipeline.core.BatteryReading
import org.etpipeline.core.PhoneFacts
import org.etpipeline.core.PhoneProbe
import org.etpipeline.engine.QAIRT_VERSION
import org.etpipeline.engine.RUNTIME_VERSION
import org.etpipeline.engine.executorchBackends
import org.etpipeline.engine.usualThreads

/** The phone that the app runs on: what it has, and how it does at the moment. */
interface Phone : PhoneProbe {
    /** All of its memory that apps can see, in bytes. */
    val totalRam: Long

    /** Memory that is free now, or can be freed without ending this app, in bytes. */
    val freeRam: Long

    /** What decides which program of a bundle runs here. */
    val facts: PhoneFacts

    /** [thermalStatus] now, and again whenever it changes. */
    val heat: Flow<String?>
}

/** The real one. */
class AndroidPhone(private val context: Context) : Phone {
    override val name: String = "${Build.MANUFACTURER.replaceFirstChar(Char::titlecase)} ${Build.MODEL}"

    override val threads: Int = usualThreads()

    override val totalRam: Long get() = memory().totalMem
    override val freeRam: Long get() = memory().availMem

    override val facts: PhoneFacts by lazy {
        val soc = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) Build.SOC_MODEL else Build.BOARD
        PhoneFacts(name, soc, executorchBackends(), RUNTIME_VERSION, QAIRT_VERSION)
    }

    override fun pssBytes(): Long = Debug.getPss() * 1024

    override fun thermalStatus(): String? {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return null
        return thermalWord(service<PowerManager>().currentThermalStatus)
    }

    override val heat: Flow<String?> = callbackFlow {
        trySend(thermalStatus())
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            val power = service<PowerManager>()
            val listener = PowerManager.OnThermalStatusChangedListener { trySend(thermalWord(it)) }
            power.addThermalStatusListener(listener)
            awaitClose { power.removeThermalStatusListener(listener) }
        } else {
            awaitClose()
        }
    }

    override fun battery(): BatteryReading? {
        val charge = service<BatteryManager>().getIntProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER)
        val changed = IntentFilter(Intent.ACTION_BATTERY_CHANGED)
        val state = ContextCompat.registerReceiver(context, null, changed, ContextCompat.RECEIVER_NOT_EXPORTED)
        val millivolts = state?.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0) ?: 0
        // A phone without a charge counter answers with the smallest number, or with 0.
        if (charge <= 0 || millivolts <= 0) return null
        val plugged = (state?.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) ?: 0) != 0
        return BatteryReading(charge.toLong(), millivolts, plugged)
    }

    private fun thermalWord(status: Int): String? = when (status) {
        PowerManager.THERMAL_STATUS_NONE -> "none"
        PowerManager.THERMAL_STATUS_LIGHT -> "light"
        PowerManager.THERMAL_STATUS_MODERATE -> "moderate"
        PowerManager.THERMAL_STATUS_SEVERE -> "severe"
        PowerManager.THERMAL_STATUS_CRITICAL -> "critical"
        PowerManager.THERMAL_STATUS_EMERGENCY -> "emergency"
        PowerManager.THERMAL_STATUS_SHUTDOWN -> "shutdown"
        else -> null
    }

    private fun memory() = ActivityManager.MemoryInfo().also { service<ActivityManager>().getMemoryInfo(it) }

    private inline fun <reified T> service(): T = checkNotNull(context.getSystemService(T::class.java))
}
