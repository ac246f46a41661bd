package org.etpipeline.demo.screens

import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import org.etpipeline.demo.TABLET
import org.etpipeline.demo.TABLET_DARK
import org.etpipeline.demo.TestApp
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Every screen on a tablet. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class TabletScreenshotTest {
    @get:Rule val rule = createEmptyComposeRule()

    @Test fun `light`() = rule.checkPictures("tablet-light", TABLET)

    @Test fun `dark`() = rule.checkPictures("tablet-dark", TABLET_DARK)
}
