package org.etpipeline.demo

import android.content.Intent
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.viewModels
import org.etpipeline.demo.ui.DemoTheme

/** The only activity. */
class MainActivity : ComponentActivity() {
    private val arriving: Arriving by viewModels { Arriving.Factory }

    override fun onCreate(savedInstanceState: Bundle?) {
        enableEdgeToEdge()
        super.onCreate(savedInstanceState)
        // After a rotation the intent is still there, but its text has been dealt with.
        if (savedInstanceState == null) arriving.shared = intent.text()
        setContent {
            val heat = (application as DemoApp).services.phone.heat
            DemoTheme { App(arriving, heat) }
        }
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        intent.text()?.let { arriving.shared = it }
        (application as DemoApp).takeIn() // a computer that has pushed a model opens the app
    }

    override fun onStart() {
        super.onStart()
        (application as DemoApp).services.otherApps.isShown = true
    }

    override fun onStop() {
        (application as DemoApp).services.otherApps.isShown = false
        super.onStop()
    }
}

/** What another app has shared, or what was selected in it. */
private fun Intent.text(): String? = when (action) {
    Intent.ACTION_SEND -> getStringExtra(Intent.EXTRA_TEXT)
    Intent.ACTION_PROCESS_TEXT -> getCharSequenceExtra(Intent.EXTRA_PROCESS_TEXT)?.toString()
    else -> null
}?.takeIf { it.isNotBlank() }
