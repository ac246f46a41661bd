package org.etpipeline.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.text.TextAutoSize
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.ButtonDefaults
import androidx.compose.material3.Card
import androidx.compose.material3.CardDefaults
import androidx.compose.material3.Icon
import androidx.compose.material3.LocalContentColor
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalDensity
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.TextStyle
import androidx.compose.ui.text.style.TextAlign
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import androidx.compose.ui.unit.sp
import org.etpipeline.demo.R

/** Text is not drawn wider than this, however wide the screen is: long lines are hard to read. */
val READABLE_WIDTH = 720.dp

/** The title of a screen, which screen readers can jump to; on one line, in large letters, too. */
@Composable
fun ScreenTitle(text: String, modifier: Modifier = Modifier, style: TextStyle = LocalTextStyle.current) = Text(
    text,
    modifier.semantics { heading() },
    autoSize = TextAutoSize.StepBased(12.sp, style.fontSize),
    maxLines = 1,
    overflow = TextOverflow.Ellipsis,
    style = style,
)

/** Space above a text field for a label of two lines, which large letters make of one. */
@Composable
fun Modifier.roomForLabel(): Modifier = padding(top = with(LocalDensity.current) { 8.sp.toDp() })

/** A screen without content: what it is for, and what to do. */
@Composable
fun EmptyState(
    icon: ImageVector,
    title: String,
    text: String,
    modifier: Modifier = Modifier,
    actions: @Composable ColumnScope.() -> Unit = {},
) {
    Column(
        modifier.fillMaxSize().verticalScroll(rememberScrollState()).padding(24.dp),
        verticalArrangement = Arrangement.spacedBy(12.dp, Alignment.CenterVertically),
        horizontalAlignment = Alignment.CenterHorizontally,
    ) {
        Icon(icon, contentDescription = null, Modifier.size(48.dp), tint = MaterialTheme.colorScheme.primary)
        Text(
            title,
            Modifier.semantics { heading() },
            style = MaterialTheme.typography.headlineSmall,
            textAlign = TextAlign.Center,
        )
        Text(
            text,
            Modifier.widthIn(max = 480.dp),
            color = MaterialTheme.colorScheme.onSurfaceVariant,
            textAlign = TextAlign.Center,
        )
        actions()
    }
}

/** What is worth knowing and asks for nothing. Screen readers say it when they have said the rest. */
@Composable
fun QuietNotice(text: String, modifier: Modifier = Modifier) {
    Surface(modifier.fillMaxWidth(), color = MaterialTheme.colorScheme.tertiaryContainer) {
        Text(
            text,
            Modifier.padding(horizontal = 16.dp, vertical = 8.dp).semantics { liveRegion = LiveRegionMode.Polite },
            style = MaterialTheme.typography.bodySmall,
        )
    }
}

/** Something went wrong; the text says what to do about it. Screen readers say it at once. */
@Composable
fun ErrorCard(
    text: String,
    modifier: Modifier = Modifier,
    onDismiss: (() -> Unit)? = null,
    onRetry: (() -> Unit)? = null,
) {
    Card(
        modifier.fillMaxWidth(),
        colors = CardDefaults.cardColors(
            containerColor = MaterialTheme.colorScheme.errorContainer,
            contentColor = MaterialTheme.colorScheme.onErrorContainer,
        ),
    ) {
        Text(text, Modifier.padding(16.dp).semantics { liveRegion = LiveRegionMode.Assertive })
        if (onDismiss != null || onRetry != null) {
            val colors = ButtonDefaults.textButtonColors(contentColor = LocalContentColor.current)
            Row(Modifier.fillMaxWidth().padding(end = 8.dp, bottom = 4.dp), Arrangement.End) {
                onRetry?.let { TextButton(it, colors = colors) { Text(stringResource(R.string.try_again)) } }
                onDismiss?.let { TextButton(it, colors = colors) { Text(stringResource(R.string.dismiss)) } }
            }
        }
    }
}
