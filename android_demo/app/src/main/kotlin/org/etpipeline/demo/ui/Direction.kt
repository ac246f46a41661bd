package org.etpipeline.demo.ui

import android.text.TextDirectionHeuristics.FIRSTSTRONG_LTR
import android.text.TextDirectionHeuristics.FIRSTSTRONG_RTL
import androidx.compose.runtime.Composable
import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.runtime.remember
import androidx.compose.ui.platform.LocalLayoutDirection
import androidx.compose.ui.text.TextStyle
import androidx.compose.ui.text.style.TextDirection
import androidx.compose.ui.unit.LayoutDirection

/** For words of the user or of a model: each paragraph runs as its own language does, whatever the app's is. */
val TextStyle.byContent: TextStyle get() = copy(textDirection = TextDirection.Content)

/** Lays out lists, headings and the like from the side that [text] begins at. */
@Composable
fun InDirectionOf(text: String, content: @Composable () -> Unit) {
    val around = LocalLayoutDirection.current
    val direction = remember(text, around) {
        // Without any letter it is as around it.
        val first = if (around == LayoutDirection.Rtl) FIRSTSTRONG_RTL else FIRSTSTRONG_LTR
        if (first.isRtl(text, 0, text.length)) LayoutDirection.Rtl else LayoutDirection.Ltr
    }
    CompositionLocalProvider(LocalLayoutDirection provides direction, content)
}
