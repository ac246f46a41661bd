package org.etpipeline.demo.chat

import android.content.ClipData
import android.content.Context
import android.content.Intent
import androidx.compose.foundation.clickable
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.heightIn
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Edit
import androidx.compose.material.icons.filled.KeyboardArrowDown
import androidx.compose.material.icons.filled.KeyboardArrowUp
import androidx.compose.material.icons.filled.Refresh
import androidx.compose.material.icons.filled.Share
import androidx.compose.material3.CircularProgressIndicator
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.painter.Painter
import androidx.compose.ui.graphics.vector.rememberVectorPainter
import androidx.compose.ui.platform.LocalClipboard
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.platform.toClipEntry
import androidx.compose.ui.res.painterResource
import androidx.compose.ui.res.pluralStringResource
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.CustomAccessibilityAction
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.semantics.customActions
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import java.text.NumberFormat
import kotlin.math.ceil
import kotlinx.coroutines.launch
import org.etpipeline.core.AnswerStats
import org.etpipeline.core.Generation.End
import org.etpipeline.core.Parts
import org.etpipeline.core.SavedMessage
import org.etpipeline.core.partsOf
import org.etpipeline.demo.R
import org.etpipeline.demo.ui.byContent

private val BUBBLE_WIDTH = 560.dp

/** What the user said, at the end side. */
@Composable
fun Question(turn: SavedMessage, canEdit: Boolean, onEdit: () -> Unit) {
    Row(
        Modifier.fillMaxWidth().padding(start = 32.dp, end = 16.dp),
        Arrangement.End,
        Alignment.CenterVertically,
    ) {
        IconButton(onEdit, enabled = canEdit) {
            Icon(
                Icons.Default.Edit,
                stringResource(R.string.chat_edit),
                Modifier.size(18.dp),
            )
        }
        Surface(
            Modifier.weight(1f, fill = false).widthIn(max = BUBBLE_WIDTH),
            shape = MaterialTheme.shapes.large,
            color = MaterialTheme.colorScheme.primaryContainer,
        ) {
            SelectionContainer {
                val edit = stringResource(R.string.chat_edit) to onEdit.takeIf { canEdit }
                Text(
                    turn.text,
                    Modifier.testTag("question").withActions(edit).padding(horizontal = 16.dp, vertical = 10.dp),
                    style = LocalTextStyle.current.byContent,
                )
            }
        }
    }
}

/** What the model said, with what can be done with it and what it took. */
@Composable
fun Answer(turn: SavedMessage, isComing: Boolean, onRegenerate: (() -> Unit)?, onGoOn: (() -> Unit)?) {
    val parts = remember(turn.text) { partsOf(turn.text) }
    val context = LocalContext.current
    val copy = rememberCopy()
    val words = if (isComing) {
        Modifier
    } else {
        Modifier.withActions(
            stringResource(R.string.chat_copy) to { copy(parts.answer) },
            stringResource(R.string.chat_share) to { context.share(parts.answer) },
            stringResource(R.string.chat_regenerate) to onRegenerate,
            stringResource(R.string.chat_go_on) to onGoOn,
        )
    }
    Column(Modifier.fillMaxWidth().padding(start = 16.dp, end = 32.dp)) {
        if (parts.thought.isNotEmpty() || (parts.isThinking && isComing)) Thought(parts, turn.thoughtMs, isComing)
        if (!parts.isThinking && (parts.answer.isNotBlank() || !isComing)) Bubble(parts.answer, isComing, words)
        if (isComing) return@Column
        AnswerActions(parts.answer, onRegenerate)
        val took = if (turn.unfinished) stringResource(R.string.chat_unfinished) else turn.stats?.let { statsText(it) }
        val about = listOfNotNull(turn.adapter?.let { stringResource(R.string.chat_adapter, it) }, took)
        if (about.isNotEmpty()) {
            Text(
                about.joinToString(stringResource(R.string.separator)),
                Modifier.testTag("stats").padding(start = 16.dp, bottom = 8.dp),
                style = MaterialTheme.typography.labelMedium,
                color = MaterialTheme.colorScheme.onSurfaceVariant,
            )
        }
        onGoOn?.let { TextButton(it, Modifier.testTag("go-on")) { Text(stringResource(R.string.chat_go_on)) } }
    }
}

@Composable
private fun Bubble(answer: String, isComing: Boolean, words: Modifier) {
    Surface(
        Modifier.widthIn(max = BUBBLE_WIDTH),
        shape = MaterialTheme.shapes.large,
        color = MaterialTheme.colorScheme.surfaceContainerHighest,
    ) {
        SelectionContainer {
            val inside = Modifier.padding(horizontal = 16.dp, vertical = 10.dp)
            if (answer.isBlank()) {
                Text(stringResource(R.string.chat_empty_answer), inside.testTag("answer"))
            } else {
                MarkdownText(answer, isComing, inside, words)
            }
        }
    }
}

@Composable
private fun AnswerActions(answer: String, onRegenerate: (() -> Unit)?) {
    Row(verticalAlignment = Alignment.CenterVertically) {
        val context = LocalContext.current
        val copy = rememberCopy()
        Small(painterResource(R.drawable.ic_copy), stringResource(R.string.chat_copy)) { copy(answer) }
        Small(rememberVectorPainter(Icons.Default.Share), stringResource(R.string.chat_share)) { context.share(answer) }
        if (onRegenerate != null) {
            Small(rememberVectorPainter(Icons.Default.Refresh), stringResource(R.string.chat_regenerate), onRegenerate)
        }
    }
}

/** What the model thought before it answered: one line, until it is opened. */
@Composable
private fun Thought(parts: Parts, thoughtMs: Long?, isComing: Boolean) {
    var isOpen by rememberSaveable { mutableStateOf(false) }
    val color = MaterialTheme.colorScheme.onSurfaceVariant
    val does = stringResource(if (isOpen) R.string.thought_hide else R.string.thought_show)
    Row(
        Modifier
            .clickable(role = Role.Button, onClickLabel = does) { isOpen = !isOpen }
            .heightIn(min = 48.dp)
            .testTag("thought-title"),
        verticalAlignment = Alignment.CenterVertically,
    ) {
        val title = when {
            parts.isThinking && isComing -> stringResource(R.string.thought_thinking)
            thoughtMs != null -> {
                val seconds = ceil(thoughtMs / 1000.0).toInt()
                pluralStringResource(R.plurals.thought_seconds, seconds, seconds)
            }
            else -> stringResource(R.string.thought_title)
        }
        Text(title, Modifier.weight(1f, fill = false), color, style = MaterialTheme.typography.labelLarge)
        val arrow = if (isOpen) Icons.Default.KeyboardArrowUp else Icons.Default.KeyboardArrowDown
        Icon(arrow, contentDescription = null, tint = color)
    }
    if (isOpen) {
        SelectionContainer {
            Text(
                parts.thought,
                Modifier.padding(bottom = 8.dp).testTag("thought"),
                color,
                style = MaterialTheme.typography.bodyMedium.byContent,
            )
        }
    }
}

/** What can be done with a message, also from a screen reader's menu; what has no action cannot be done now. */
private fun Modifier.withActions(vararg actions: Pair<String, (() -> Unit)?>): Modifier = semantics {
    customActions = actions.mapNotNull { (label, action) ->
        action?.let {
            CustomAccessibilityAction(label) {
                action()
                true
            }
        }
    }
}

/** Puts a text where other apps can take it. */
@Composable
internal fun rememberCopy(): (String) -> Unit {
    val clipboard = LocalClipboard.current
    val scope = rememberCoroutineScope()
    return { text -> scope.launch { clipboard.setClipEntry(ClipData.newPlainText(null, text).toClipEntry()) } }
}

/** Lets the user choose an app that gets a text. */
internal fun Context.share(text: String) {
    val send = Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, text)
    startActivity(Intent.createChooser(send, null))
}

/** The model is being loaded, or reads what was said. */
@Composable
fun Thinking() {
    Row(Modifier.padding(horizontal = 24.dp, vertical = 12.dp), verticalAlignment = Alignment.CenterVertically) {
        CircularProgressIndicator(Modifier.size(18.dp), strokeWidth = 2.dp)
        Text(stringResource(R.string.chat_thinking), Modifier.padding(start = 12.dp), color = MaterialTheme.colorScheme.onSurfaceVariant)
    }
}

@Composable
private fun Small(icon: Painter, label: String, onClick: () -> Unit) {
    IconButton(onClick) { Icon(icon, label, Modifier.size(18.dp), MaterialTheme.colorScheme.onSurfaceVariant) }
}

/** What an answer took, on one line. */
@Composable
internal fun figures(stats: AnswerStats): String {
    val numbers = NumberFormat.getIntegerInstance(LocalResources.current.configuration.locales[0])
    return pluralStringResource(
        R.plurals.chat_stats,
        stats.tokens,
        numbers.format(stats.tokens),
        numbers.format(stats.ttftMs),
        numbers.format(stats.tokensPerSecond),
    )
}

@Composable
private fun statsText(stats: AnswerStats): String {
    val end = when (stats.end) {
        End.LENGTH.name -> R.string.chat_end_length
        End.CONTEXT.name -> R.string.chat_end_context
        End.STOPPED.name -> R.string.chat_end_stopped
        else -> return figures(stats)
    }
    return figures(stats) + stringResource(R.string.separator) + stringResource(end)
}
