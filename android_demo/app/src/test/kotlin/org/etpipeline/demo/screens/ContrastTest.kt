package org.etpipeline.demo.screens

import androidx.compose.material3.ColorScheme
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.luminance
import org.etpipeline.demo.ui.DARK
import org.etpipeline.demo.ui.LIGHT
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The app's own colours are told apart by eyes that see poorly, as WCAG 2 (AA) measures it. */
class ContrastTest {
    @Test fun `light`() = check(LIGHT)

    @Test fun `dark`() = check(DARK)

    private fun check(colors: ColorScheme) = with(colors) {
        val behind = mapOf(
            "surface" to surface,
            "surfaceContainerLow" to surfaceContainerLow,
            "surfaceContainer" to surfaceContainer,
            "surfaceContainerHigh" to surfaceContainerHigh,
            "surfaceContainerHighest" to surfaceContainerHighest,
        )
        val texts = mapOf(
            "onSurface" to onSurface,
            "onSurfaceVariant" to onSurfaceVariant,
            "primary" to primary,
            "tertiary" to tertiary,
            "error" to error,
        )
        val onSurfaces = behind.flatMap { (below, ground) ->
            texts.map { (name, text) -> "$name on $below" to (text to ground) }
        }
        val onContainers = listOf(
            "onPrimary" to (onPrimary to primary),
            "onPrimaryContainer" to (onPrimaryContainer to primaryContainer),
            "onSecondaryContainer" to (onSecondaryContainer to secondaryContainer),
            "onTertiaryContainer" to (onTertiaryContainer to tertiaryContainer),
            "onErrorContainer" to (onErrorContainer to errorContainer),
        )
        val poor = (onSurfaces + onContainers).filter { (_, pair) -> ratio(pair.first, pair.second) < TEXT }
        assertEquals(emptyList<String>(), poor.map { it.first })
        assertTrue("outline", ratio(outline, surface) >= SIGN)
    }

    private fun ratio(one: Color, other: Color): Float {
        val (light, dark) = listOf(one.luminance(), other.luminance()).sortedDescending()
        return (light + 0.05f) / (dark + 0.05f)
    }

    private companion object {
        const val TEXT = 4.5f
        const val SIGN = 3f
    }
}
