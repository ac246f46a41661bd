package org.etpipeline.demo.chat

import androidx.compose.foundation.horizontalScroll
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.text.selection.DisableSelection
import androidx.compose.material3.HorizontalDivider
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.runtime.remember
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalLayoutDirection
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.painterResource
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.AnnotatedString
import androidx.compose.ui.text.SpanStyle
import androidx.compose.ui.text.buildAnnotatedString
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontStyle
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.text.withStyle
import androidx.compose.ui.unit.LayoutDirection
import androidx.compose.ui.unit.dp
import org.etpipeline.core.Block
import org.etpipeline.core.Span
import org.etpipeline.core.readMarkdown
import org.etpipeline.demo.R
import org.etpipeline.demo.ui.InDirectionOf
import org.etpipeline.demo.ui.byContent

/**
 * An answer as its marks say.
 *
 * @param words of each piece of text, which a screen reader stops at.
 */
@Composable
internal fun MarkdownText(text: String, isGrowing: Boolean, modifier: Modifier = Modifier, words: Modifier = Modifier) {
    val blocks = remember(text, isGrowing) { readMarkdown(text, isGrowing) }
    InDirectionOf(text) {
        Column(modifier, Arrangement.spacedBy(8.dp)) {
            for (block in blocks) {
                when (block) {
                    is Block.Paragraph -> {
                        Text(annotated(block.text), words.testTag("answer"), style = LocalTextStyle.current.byContent)
                    }
                    is Block.Heading -> Heading(block, words)
                    is Block.Item -> Item(block, words)
                    is Block.Code -> Code(block)
                    Block.Rule -> HorizontalDivider()
                }
            }
        }
    }
}

@Composable
private fun Heading(block: Block.Heading, modifier: Modifier) {
    val style = with(MaterialTheme.typography) {
        when (block.level) {
            1 -> titleLarge
            2 -> titleMedium.copy(fontSize = bodyLarge.fontSize * 1.125f)
            else -> titleMedium
        }
    }
    Text(annotated(block.text), modifier.testTag("heading").semantics { heading() }, style = style.byContent)
}

@Composable
private fun Item(block: Block.Item, modifier: Modifier) {
    Row(
        modifier.padding(start = 16.dp * block.depth.coerceAtMost(DEEPEST))
            .semantics(mergeDescendants = true) {}
            .testTag("item"),
        Arrangement.spacedBy(8.dp),
    ) {
        Text(block.mark)
        Text(annotated(block.text), style = LocalTextStyle.current.byContent)
    }
}

/** Lines are not broken; they run from left to right in every language. */
@Composable
private fun Code(block: Block.Code) {
    val copy = rememberCopy()
    Surface(Modifier.fillMaxWidth(), MaterialTheme.shapes.small, MaterialTheme.colorScheme.surfaceContainerLow) {
        Column {
            Row(verticalAlignment = Alignment.CenterVertically) {
                DisableSelection {
                    Text(
                        block.language,
                        Modifier.weight(1f).padding(start = 12.dp),
                        MaterialTheme.colorScheme.onSurfaceVariant,
                        style = MaterialTheme.typography.labelMedium,
                    )
                }
                IconButton({ copy(block.text) }) {
                    Icon(
                        painterResource(R.drawable.ic_copy),
                        stringResource(R.string.chat_copy_code),
                        Modifier.size(18.dp),
                        MaterialTheme.colorScheme.onSurfaceVariant,
                    )
                }
            }
            CompositionLocalProvider(LocalLayoutDirection provides LayoutDirection.Ltr) {
                Text(
                    block.text,
                    Modifier
                        .fillMaxWidth()
                        .horizontalScroll(rememberScrollState())
                        .padding(start = 12.dp, end = 12.dp, bottom = 12.dp)
                        .testTag("code"),
                    fontFamily = FontFamily.Monospace,
                    softWrap = false,
                    style = MaterialTheme.typography.bodyMedium,
                )
            }
        }
    }
}

@Composable
private fun annotated(spans: List<Span>): AnnotatedString {
    val behindCode = MaterialTheme.colorScheme.surfaceContainerLow
    return remember(spans, behindCode) {
        buildAnnotatedString {
            for (span in spans) {
                val style = SpanStyle(
                    fontWeight = if (span.bold) FontWeight.Bold else null,
                    fontStyle = if (span.italic) FontStyle.Italic else null,
                    fontFamily = if (span.code) FontFamily.Monospace else null,
                )
                withStyle(if (span.code) style.copy(background = behindCode) else style) { append(span.text) }
            }
        }
    }
}

private const val DEEPEST = 4 // on a narrow screen there must be room for words
