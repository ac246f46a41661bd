package org.etpipeline.demo.screens

import androidx.compose.ui.test.junit4.ComposeTestRule
import androidx.compose.ui.test.onRoot
import com.github.takahirom.roborazzi.RoborazziOptions
import com.github.takahirom.roborazzi.captureRoboImage
import java.util.TimeZone
import org.etpipeline.demo.showScreen
import org.junit.Assert.assertEquals

/**
 * Draws screens on a device and compares each with its picture in a folder of `src/test/screenshots`, or draws the
 * pictures anew.
 */
fun ComposeTestRule.checkPictures(folder: String, device: String, names: Collection<String> = sampleScreens.keys) {
    TimeZone.setDefault(TimeZone.getTimeZone("UTC"))
    val different = names.filterNot { name ->
        val activity = showScreen(device) { sampleScreens.getValue(name).Content() }
        try {
            onRoot().captureRoboImage("src/test/screenshots/$folder/$name.png", OPTIONS)
            true
        } catch (difference: AssertionError) {
            System.err.println(difference.message)
            false
        } finally {
            activity.close()
        }
    }
    assertEquals("differ from their pictures", emptyList<String>(), different)
}

private val OPTIONS = RoborazziOptions(
    recordOptions = RoborazziOptions.RecordOptions(resizeScale = 0.5),
    compareOptions = RoborazziOptions.CompareOptions(changeThreshold = 0.01f),
)
