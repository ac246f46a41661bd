package org.etpipeline.demo

import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.compose.runtime.Composable
import androidx.compose.ui.test.junit4.ComposeTestRule
import java.util.concurrent.TimeUnit
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import org.etpipeline.demo.ui.DemoTheme
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.android.controller.ActivityController
import org.robolectric.shadows.ShadowLooper

/** Shows one screen in an activity of its own, on a device as [qualifiers] say. */
fun showScreen(qualifiers: String = PHONE, content: @Composable () -> Unit): ActivityController<ComponentActivity> {
    RuntimeEnvironment.setQualifiers(qualifiers)
    return Robolectric.buildActivity(ComponentActivity::class.java).setup().also { it.get().show(content) }
}

/** Shows a screen in an activity that is there already: after a rotation. */
fun ComponentActivity.show(content: @Composable () -> Unit) = setContent { DemoTheme(content) }

/** Takes away the model that comes with the app. */
fun TestApp.startEmpty() {
    runBlocking { services.startup.state.first { it.isDone } }
    services.store.list().forEach { services.store.delete(it.id) }
    services.models.refresh()
}

/** Waits for what other threads do; the clock of the main thread, which stands still in tests, goes on meanwhile. */
fun ComposeTestRule.waitFor(condition: () -> Boolean) = waitUntil(timeoutMillis = 30_000) {
    ShadowLooper.idleMainLooper(100, TimeUnit.MILLISECONDS)
    waitForIdle()
    condition()
}
