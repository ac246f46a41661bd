package org.etpipeline.demo.tasks

import android.content.ClipData
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.BoxWithConstraints
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.heightIn
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.foundation.verticalScroll
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Clear
import androidx.compose.material.icons.filled.Info
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.DropdownMenuItem
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.ExposedDropdownMenuAnchorType
import androidx.compose.material3.ExposedDropdownMenuBox
import androidx.compose.material3.ExposedDropdownMenuDefaults
import androidx.compose.material3.FilterChip
import androidx.compose.material3.HorizontalDivider
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedCard
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.SnackbarHost
import androidx.compose.material3.SnackbarHostState
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.ClipEntry
import androidx.compose.ui.platform.LocalClipboard
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.platform.LocalFocusManager
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import java.util.Locale
import kotlinx.coroutines.launch
import org.etpipeline.core.Task
import org.etpipeline.core.splitReplies
import org.etpipeline.demo.R
import org.etpipeline.demo.chat.figures
import org.etpipeline.demo.chat.share
import org.etpipeline.demo.text
import org.etpipeline.demo.ui.READABLE_WIDTH
import org.etpipeline.demo.ui.ScreenTitle
import org.etpipeline.demo.ui.byContent

/** More options than this go into a menu. */
private const val MOST_CHIPS = 8

@Composable
internal fun TaskPage(
    key: String,
    task: Task,
    run: TaskRun?,
    viewModel: TaskViewModel,
    back: () -> Unit,
    modifier: Modifier = Modifier,
) {
    var choices by rememberSaveable { mutableStateOf(HashMap<String, String>()) } // Serializable, so it can be saved
    val focus = LocalFocusManager.current
    TaskContent(
        key = key,
        task = task,
        form = TaskForm(viewModel.draft, choices),
        run = run?.takeIf { it.task == key },
        actions = TaskActions(
            text = { viewModel.draft = it },
            choose = { name, option -> choices = HashMap(choices + (name to option)) },
            run = {
                focus.clearFocus() // the keyboard would cover the answer
                viewModel.run(key, viewModel.draft, choices)
            },
            stop = viewModel::stop,
            back = back,
        ),
        modifier = modifier,
    )
}

/** What the user has entered. A choice that is not made is the first option. */
data class TaskForm(val text: String = "", val choices: Map<String, String> = emptyMap())

/** What can be done with a task. */
class TaskActions(
    val text: (String) -> Unit = {},
    val choose: (name: String, option: String) -> Unit = { _, _ -> },
    val run: () -> Unit = {},
    val stop: () -> Unit = {},
    val back: () -> Unit = {},
)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun TaskContent(
    key: String,
    task: Task,
    form: TaskForm,
    run: TaskRun?,
    actions: TaskActions,
    modifier: Modifier = Modifier,
) {
    val snackbar = remember { SnackbarHostState() }
    Scaffold(
        modifier = modifier,
        topBar = {
            TopAppBar(
                title = { ScreenTitle(taskTitle(key, task.title)) },
                navigationIcon = { BackButton(actions.back) },
            )
        },
        snackbarHost = { SnackbarHost(snackbar) },
    ) { insets ->
        BoxWithConstraints(Modifier.padding(insets).fillMaxSize().imePadding(), Alignment.TopCenter) {
            val height = maxHeight
            Column(Modifier.widthIn(max = READABLE_WIDTH)) {
                Disclaimer(key, task, Modifier.heightIn(max = height / 3))
                Column(
                    Modifier.fillMaxWidth().verticalScroll(rememberScrollState()).padding(16.dp),
                    verticalArrangement = Arrangement.spacedBy(16.dp),
                ) {
                    Form(key, task, form, run?.isRunning == true, actions)
                    if (run != null) Result(key, run, copier(snackbar))
                }
            }
        }
    }
}

/** Stands still above the form, so that it is in sight whatever is scrolled. */
@Composable
private fun Disclaimer(key: String, task: Task, modifier: Modifier) {
    val lines = listOfNotNull( // the doctor first: in large letters the rest may have to be scrolled to
        if (key == "symptom_check") stringResource(R.string.task_symptom_check_help) else null,
        task.disclaimer,
    )
    if (lines.isEmpty()) return
    Surface(
        modifier.padding(horizontal = 16.dp).fillMaxWidth().testTag("disclaimer"),
        shape = MaterialTheme.shapes.medium,
        color = MaterialTheme.colorScheme.tertiaryContainer,
    ) {
        Row(
            Modifier.verticalScroll(rememberScrollState()).padding(12.dp),
            horizontalArrangement = Arrangement.spacedBy(12.dp),
        ) {
            Icon(Icons.Default.Info, contentDescription = null)
            Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
                lines.forEach { Text(it, style = MaterialTheme.typography.bodySmall.byContent) }
            }
        }
    }
}

@Composable
private fun Form(key: String, task: Task, form: TaskForm, isRunning: Boolean, actions: TaskActions) {
    OutlinedTextField(
        value = form.text,
        onValueChange = actions.text,
        modifier = Modifier.fillMaxWidth().testTag("task-text"),
        textStyle = LocalTextStyle.current.byContent,
        label = { Text(inputLabel(key)) },
        trailingIcon = {
            if (form.text.isNotEmpty()) {
                IconButton(onClick = { actions.text("") }) {
                    Icon(Icons.Default.Clear, contentDescription = stringResource(R.string.task_clear))
                }
            }
        },
        minLines = 3,
    )
    for ((name, options) in task.choices) {
        val chosen = form.choices[name] ?: options.firstOrNull().orEmpty()
        Choice(choiceLabel(name), options.associateWith { optionLabel(name, it) }, chosen) { actions.choose(name, it) }
    }
    Row(Modifier.fillMaxWidth(), Arrangement.End) {
        if (isRunning) {
            Button(onClick = actions.stop, Modifier.testTag("stop")) { Text(stringResource(R.string.task_stop)) }
        } else {
            Button(onClick = actions.run, Modifier.testTag("run"), enabled = form.text.isNotBlank()) {
                Text(stringResource(R.string.task_run))
            }
        }
    }
}

/** @param options what is said to the model, with what is shown for it. */
@OptIn(ExperimentalMaterial3Api::class)
@Composable
private fun Choice(label: String, options: Map<String, String>, chosen: String, choose: (String) -> Unit) {
    if (options.size <= MOST_CHIPS) {
        Column {
            Text(label, style = MaterialTheme.typography.labelMedium, color = MaterialTheme.colorScheme.onSurfaceVariant)
            FlowRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
                for ((option, shown) in options) {
                    FilterChip(selected = option == chosen, onClick = { choose(option) }, label = { Text(shown) })
                }
            }
        }
    } else {
        var open by rememberSaveable { mutableStateOf(false) }
        ExposedDropdownMenuBox(expanded = open, onExpandedChange = { open = it }) {
            OutlinedTextField(
                value = options[chosen] ?: chosen,
                onValueChange = {},
                modifier = Modifier.fillMaxWidth().menuAnchor(ExposedDropdownMenuAnchorType.PrimaryNotEditable),
                readOnly = true,
                label = { Text(label) },
                trailingIcon = { ExposedDropdownMenuDefaults.TrailingIcon(open) },
            )
            ExposedDropdownMenu(expanded = open, onDismissRequest = { open = false }) {
                for ((option, shown) in options) {
                    DropdownMenuItem(text = { Text(shown) }, onClick = { choose(option); open = false })
                }
            }
        }
    }
}

@Composable
private fun Result(key: String, run: TaskRun, copy: (String) -> Unit) {
    Progress(run)
    val replies = if (key == "smart_reply") splitReplies(run.answer) else emptyList()
    if (replies.isNotEmpty()) {
        Replies(replies, run, copy)
    } else if (run.answer.isNotEmpty()) {
        AnswerCard(key, run, copy)
    }
    Outcome(run)
}

/** What the model is busy with, until its first word. */
@Composable
internal fun Progress(run: TaskRun) {
    if (!run.isRunning) return
    Column(Modifier.testTag("progress"), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        LinearProgressIndicator(Modifier.fillMaxWidth())
        when (run.phase) {
            TaskRun.Phase.LOADING -> Small(stringResource(R.string.task_loading))
            TaskRun.Phase.READING -> Small(stringResource(R.string.task_working))
            else -> Unit
        }
    }
}

@Composable
private fun Replies(replies: List<String>, run: TaskRun, copy: (String) -> Unit) {
    Column(Modifier.announcedAtEnd(run), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        for (reply in replies) {
            OutlinedCard(onClick = { copy(reply) }, Modifier.fillMaxWidth().testTag("reply"), enabled = !run.isRunning) {
                Text(reply, Modifier.padding(16.dp), style = LocalTextStyle.current.byContent)
            }
        }
        if (!run.isRunning) Small(stringResource(R.string.task_replies))
    }
}

@Composable
private fun AnswerCard(key: String, run: TaskRun, copy: (String) -> Unit) {
    val context = LocalContext.current
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
            if (key == "translate") {
                Small(run.input.trim())
                HorizontalDivider()
            }
            SelectionContainer {
                Text(
                    run.answer,
                    Modifier.testTag("answer").announcedAtEnd(run),
                    style = MaterialTheme.typography.bodyLarge.byContent,
                )
            }
            if (!run.isRunning) {
                Row(Modifier.fillMaxWidth(), Arrangement.End) {
                    TextButton(onClick = { copy(run.answer) }) { Text(stringResource(R.string.task_copy)) }
                    TextButton(onClick = { context.share(run.answer) }) { Text(stringResource(R.string.task_share)) }
                }
            }
        }
    }
}

/** How a run ended, unless the answer says it all. */
@Composable
internal fun Outcome(run: TaskRun) {
    if (run.isRunning) return
    Column(verticalArrangement = Arrangement.spacedBy(4.dp)) {
        val problem = run.problem
        when {
            problem != null -> Text(
                problem.text(LocalResources.current),
                Modifier.testTag("task-problem").semantics { liveRegion = LiveRegionMode.Polite },
                color = MaterialTheme.colorScheme.error,
            )
            run.phase == TaskRun.Phase.STOPPED -> Small(stringResource(R.string.task_stopped))
            run.answer.isBlank() -> Text(stringResource(R.string.task_no_answer))
            run.isCut -> Small(stringResource(R.string.task_cut))
        }
        run.stats?.let { Small(figures(it)) }
    }
}

@Composable
private fun Small(text: String) {
    Text(text, style = MaterialTheme.typography.bodySmall.byContent, color = MaterialTheme.colorScheme.onSurfaceVariant)
}

/** A screen reader that spoke at each word would never finish: it hears the whole answer once, when it is there. */
internal fun Modifier.announcedAtEnd(run: TaskRun): Modifier =
    if (run.isRunning) this else semantics { liveRegion = LiveRegionMode.Polite }

/** Copies a text and says so. */
@Composable
internal fun copier(snackbar: SnackbarHostState): (String) -> Unit {
    val clipboard = LocalClipboard.current
    val scope = rememberCoroutineScope()
    val copied = stringResource(R.string.task_copied)
    return { text ->
        scope.launch {
            clipboard.setClipEntry(ClipEntry(ClipData.newPlainText(null, text)))
            snackbar.showSnackbar(copied)
        }
    }
}

@Composable
private fun inputLabel(key: String): String = when (key) {
    "smart_reply" -> stringResource(R.string.task_smart_reply_input)
    "translate" -> stringResource(R.string.task_translate_input)
    "summarize" -> stringResource(R.string.task_summarize_input)
    "symptom_check" -> stringResource(R.string.task_symptom_check_input)
    else -> stringResource(R.string.task_input)
}

/** A bundle names languages in English, as its prompts do; they are shown in the app's. */
@Composable
private fun optionLabel(name: String, option: String): String {
    if (name != "language") return option
    val locale = LocalResources.current.configuration.locales[0]
    return remember(option, locale) {
        val all = Locale.getISOLanguages().map(Locale::forLanguageTag)
        all.find { it.getDisplayLanguage(Locale.ENGLISH) == option }?.getDisplayLanguage(locale) ?: option
    }
}

@Composable
private fun choiceLabel(name: String): String = when (name) {
    "language" -> stringResource(R.string.task_choice_language)
    else -> name.replace('_', ' ').replaceFirstChar { it.titlecase() }
}
