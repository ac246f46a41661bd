package org.etpipeline.demo.ui

import android.os.Build
import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.dynamicDarkColorScheme
import androidx.compose.material3.dynamicLightColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.platform.LocalContext

internal val LIGHT = lightColorScheme(
    primary = Color(0xFF2B6A4F),
    onPrimary = Color.White,
    primaryContainer = Color(0xFFB0F1CF),
    onPrimaryContainer = Color(0xFF002114),
    secondary = Color(0xFF4D6357),
    onSecondary = Color.White,
    secondaryContainer = Color(0xFFCFE9D9),
    onSecondaryContainer = Color(0xFF0A1F16),
    tertiary = Color(0xFF3C6472),
    onTertiary = Color.White,
    tertiaryContainer = Color(0xFFC0E9FA),
    onTertiaryContainer = Color(0xFF001F28),
    background = Color(0xFFF8FAF6),
    onBackground = Color(0xFF191C1A),
    surface = Color(0xFFF8FAF6),
    onSurface = Color(0xFF191C1A),
    surfaceVariant = Color(0xFFDBE5DD),
    onSurfaceVariant = Color(0xFF404943),
    surfaceContainer = Color(0xFFECEFEA),
    surfaceContainerLow = Color(0xFFF2F4F0),
    surfaceContainerHigh = Color(0xFFE6E9E5),
    surfaceContainerHighest = Color(0xFFE1E3DF),
    outline = Color(0xFF707973),
    outlineVariant = Color(0xFFBFC9C1),
)

internal val DARK = darkColorScheme(
    primary = Color(0xFF95D5B4),
    onPrimary = Color(0xFF003826),
    primaryContainer = Color(0xFF0C5139),
    onPrimaryContainer = Color(0xFFB0F1CF),
    secondary = Color(0xFFB4CCBD),
    onSecondary = Color(0xFF1F352A),
    secondaryContainer = Color(0xFF364B40),
    onSecondaryContainer = Color(0xFFCFE9D9),
    tertiary = Color(0xFFA4CDDD),
    onTertiary = Color(0xFF063542),
    tertiaryContainer = Color(0xFF234C5A),
    onTertiaryContainer = Color(0xFFC0E9FA),
    background = Color(0xFF101411),
    onBackground = Color(0xFFE1E3DF),
    surface = Color(0xFF101411),
    onSurface = Color(0xFFE1E3DF),
    surfaceVariant = Color(0xFF404943),
    onSurfaceVariant = Color(0xFFBFC9C1),
    surfaceContainer = Color(0xFF1D211E),
    surfaceContainerLow = Color(0xFF191C1A),
    surfaceContainerHigh = Color(0xFF272B28),
    surfaceContainerHighest = Color(0xFF323633),
    outline = Color(0xFF89938C),
    outlineVariant = Color(0xFF404943),
)

/** Material 3 in the phone's own colours where it has them, else in green; light or dark as the system is. */
@Composable
fun DemoTheme(content: @Composable () -> Unit) {
    val isDark = isSystemInDarkTheme()
    val context = LocalContext.current
    val colors = when {
        Build.VERSION.SDK_INT >= Build.VERSION_CODES.S ->
            if (isDark) dynamicDarkColorScheme(context) else dynamicLightColorScheme(context)
        isDark -> DARK
        else -> LIGHT
    }
    MaterialTheme(colorScheme = colors, content = content)
}
