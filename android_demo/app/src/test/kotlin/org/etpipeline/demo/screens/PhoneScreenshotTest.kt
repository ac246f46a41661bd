package org.etpipeline.demo.screens

import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import org.etpipeline.demo.PHONE
import org.etpipeline.demo.PHONE_DARK
import org.etpipeline.demo.TestApp
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Every screen looks as in its picture in `src/test/screenshots`; `make screenshots` draws the pictures again. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class PhoneScreenshotTest {
    @get:Rule val rule = createEmptyComposeRule()

    @Test fun `light`() = rule.checkPictures("phone-light", PHONE)

    @Test fun `dark`() = rule.checkPictures("phone-dark", PHONE_DARK)

    /** All of it, without scrolling. */
    @Test fun `tall`() =
        rule.checkPictures("phone-tall", "w411dp-h1500dp-port-notnight-xhdpi", listOf("benchmark-report", "models"))

    /** Long words, in letters twice as large. */
    @Test
    fun `German in the largest letters`() {
        RuntimeEnvironment.setFontScale(2f)
        rule.checkPictures("phone-german-large", "de-$PHONE", FEW)
    }

    @Test fun `from right to left`() = rule.checkPictures("phone-arabic", "ar-ldrtl-$PHONE")

    @Test fun `small, and turned`() =
        rule.checkPictures("small-landscape", "w640dp-h320dp-land-notnight-xhdpi", listOf("chat", "symptom-check", "models"))

    /** As small as phones are, in letters twice as large: nothing may be out of reach. */
    @Test
    fun `small, in the largest letters`() {
        RuntimeEnvironment.setFontScale(2f)
        rule.checkPictures("small-large", SMALL)
    }

    @Test
    fun `small, Japanese in the largest letters`() {
        RuntimeEnvironment.setFontScale(2f)
        rule.checkPictures("small-japanese-large", "ja-$SMALL")
    }

    private companion object {
        val FEW = listOf(
            "chat", "chat-markdown", "chat-settings", "chat-too-large", "tasks", "symptom-check", "models", "benchmark-report",
        )
    }
}
