package org.etpipeline.demo.tasks

import androidx.activity.compose.BackHandler
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.grid.GridCells
import androidx.compose.foundation.lazy.grid.GridItemSpan
import androidx.compose.foundation.lazy.grid.LazyGridScope
import androidx.compose.foundation.lazy.grid.LazyVerticalGrid
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.automirrored.filled.ArrowBack
import androidx.compose.material.icons.automirrored.filled.List
import androidx.compose.material.icons.automirrored.filled.Send
import androidx.compose.material.icons.filled.Edit
import androidx.compose.material.icons.filled.Favorite
import androidx.compose.material.icons.filled.MailOutline
import androidx.compose.material.icons.filled.Star
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedCard
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.res.vectorResource
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.compose.viewModel
import org.etpipeline.core.Task
import org.etpipeline.demo.R
import org.etpipeline.demo.ui.EmptyState
import org.etpipeline.demo.ui.ScreenTitle
import org.etpipeline.demo.ui.byContent

/** Where the user is among the tasks; [id] is the task's key or the note's id. */
private data class Page(val kind: Kind, val id: String = "") : java.io.Serializable {
    enum class Kind { LIST, TASK, NOTES, NOTE }
}

/**
 * The tasks of the selected model, and the notes.
 *
 * @param sharedText what another app shared; the user chooses what to do with it.
 * @param onSharedTextTaken it is being dealt with, or was declined.
 */
@Composable
fun TasksScreen(
    sharedText: String?,
    onSharedTextTaken: () -> Unit,
    onAskInChat: (String) -> Unit,
    onOpenModels: () -> Unit,
    modifier: Modifier = Modifier,
    tasks: TaskViewModel = viewModel(factory = TaskViewModel.Factory),
    notes: NotesViewModel = viewModel(factory = NotesViewModel.Factory),
) {
    val state by tasks.state.collectAsStateWithLifecycle()
    var page by rememberSaveable { mutableStateOf(Page(Page.Kind.LIST)) }
    fun open(next: Page, text: String = "") {
        tasks.clear()
        tasks.draft = text
        page = next
    }

    if (sharedText != null) {
        BackHandler(onBack = onSharedTextTaken)
        ShareContent(
            text = sharedText,
            tasks = state.tasks,
            actions = ShareActions(
                task = { open(Page(Page.Kind.TASK, it), sharedText); onSharedTextTaken() },
                note = { open(Page(Page.Kind.NOTE, notes.create(sharedText))); onSharedTextTaken() },
                chat = { onAskInChat(sharedText); onSharedTextTaken() },
                back = onSharedTextTaken,
            ),
            modifier = modifier,
        )
        return
    }
    val task = state.tasks[page.id]
    when {
        page.kind == Page.Kind.TASK && task != null -> {
            BackHandler { open(Page(Page.Kind.LIST)) }
            TaskPage(page.id, task, state.run, tasks, back = { open(Page(Page.Kind.LIST)) }, modifier)
        }
        page.kind == Page.Kind.NOTES -> {
            BackHandler { open(Page(Page.Kind.LIST)) }
            val openNote = { id: String -> open(Page(Page.Kind.NOTE, id)) }
            NotesPage(notes, openNote, onOpenModels, back = { open(Page(Page.Kind.LIST)) }, modifier)
        }
        page.kind == Page.Kind.NOTE -> {
            fun back() {
                notes.close(page.id)
                open(Page(Page.Kind.NOTES))
            }
            BackHandler(onBack = ::back)
            NotePage(page.id, notes, tasks, back = ::back, modifier)
        }
        else -> TaskListContent(
            state = state,
            open = { open(Page(Page.Kind.TASK, it)) },
            openNotes = { open(Page(Page.Kind.NOTES)) },
            openModels = onOpenModels,
            modifier = modifier,
        )
    }
}

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun TaskListContent(
    state: TasksState,
    open: (String) -> Unit,
    openNotes: () -> Unit,
    openModels: () -> Unit,
    modifier: Modifier = Modifier,
) {
    Scaffold(
        modifier = modifier,
        topBar = { TopAppBar(title = { ScreenTitle(stringResource(R.string.tasks_title)) }) },
    ) { insets ->
        Column(Modifier.padding(insets).fillMaxSize()) {
            if (state.bundle == null) {
                EmptyState(
                    icon = ImageVector.vectorResource(R.drawable.ic_tasks),
                    title = stringResource(R.string.tasks_no_model_title),
                    text = stringResource(R.string.tasks_no_model_text),
                ) {
                    Button(onClick = openModels) { Text(stringResource(R.string.tasks_open_models)) }
                    OutlinedButton(onClick = openNotes, Modifier.testTag("open-notes")) {
                        Text(stringResource(R.string.tasks_notes))
                    }
                }
                return@Column
            }
            EntryGrid {
                entries(state.tasks, open)
                item(key = "notes") {
                    val about = stringResource(R.string.tasks_notes_about)
                    Entry(Icons.Default.Edit, stringResource(R.string.tasks_notes), about, openNotes, "open-notes")
                }
                if (state.tasks.isEmpty()) {
                    item(span = { GridItemSpan(maxLineSpan) }) { Text(stringResource(R.string.tasks_none)) }
                }
            }
        }
    }
}

/** What can be done with a text that another app shared. */
class ShareActions(
    val task: (String) -> Unit = {},
    val note: () -> Unit = {},
    val chat: () -> Unit = {},
    val back: () -> Unit = {},
)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun ShareContent(text: String, tasks: Map<String, Task>, actions: ShareActions, modifier: Modifier = Modifier) {
    Scaffold(
        modifier = modifier,
        topBar = {
            TopAppBar(
                title = { ScreenTitle(stringResource(R.string.share_title)) },
                navigationIcon = { BackButton(actions.back) },
            )
        },
    ) { insets ->
        Column(Modifier.padding(insets).fillMaxSize().testTag("share")) {
            EntryGrid {
                item(key = "text", span = { GridItemSpan(maxLineSpan) }) {
                    OutlinedCard(Modifier.fillMaxWidth()) {
                        val style = LocalTextStyle.current.byContent
                        val around = Modifier.padding(16.dp)
                        Text(text.trim(), around, maxLines = 6, overflow = TextOverflow.Ellipsis, style = style)
                    }
                }
                entries(tasks, actions.task)
                item(key = "chat") {
                    Entry(Icons.AutoMirrored.Default.Send, stringResource(R.string.share_chat), null, actions.chat, "share-chat")
                }
                item(key = "notes") {
                    Entry(Icons.Default.Edit, stringResource(R.string.share_note), null, actions.note, "share-note")
                }
            }
        }
    }
}

@Composable
private fun EntryGrid(content: LazyGridScope.() -> Unit) {
    LazyVerticalGrid(
        columns = GridCells.Adaptive(minSize = 280.dp),
        contentPadding = PaddingValues(16.dp),
        verticalArrangement = Arrangement.spacedBy(12.dp),
        horizontalArrangement = Arrangement.spacedBy(12.dp),
        content = content,
    )
}

private fun LazyGridScope.entries(tasks: Map<String, Task>, open: (String) -> Unit) {
    for ((key, task) in tasks) {
        item(key = "task-$key") {
            Entry(taskIcon(key), taskTitle(key, task.title), taskAbout(key), { open(key) }, "open-task-$key")
        }
    }
}

@Composable
private fun Entry(icon: ImageVector, title: String, about: String?, onClick: () -> Unit, tag: String) {
    Card(onClick, Modifier.fillMaxWidth().testTag(tag)) {
        Row(
            Modifier.padding(16.dp),
            verticalAlignment = Alignment.CenterVertically,
            horizontalArrangement = Arrangement.spacedBy(16.dp),
        ) {
            Icon(icon, contentDescription = null, tint = MaterialTheme.colorScheme.primary)
            Column {
                Text(title, style = MaterialTheme.typography.titleMedium)
                if (about != null) {
                    Text(
                        about,
                        style = MaterialTheme.typography.bodyMedium,
                        color = MaterialTheme.colorScheme.onSurfaceVariant,
                    )
                }
            }
        }
    }
}

@Composable
internal fun BackButton(onClick: () -> Unit) {
    IconButton(onClick) {
        Icon(Icons.AutoMirrored.Default.ArrowBack, contentDescription = stringResource(R.string.task_back))
    }
}

/** The name of a task: ours for the ones that we know, else [title] as its bundle gives it. */
@Composable
fun taskTitle(key: String, title: String = key.replace('_', ' ')): String = when (key) {
    "chat" -> stringResource(R.string.task_chat)
    "smart_reply" -> stringResource(R.string.task_smart_reply)
    "translate" -> stringResource(R.string.task_translate)
    "summarize" -> stringResource(R.string.task_summarize)
    "symptom_check" -> stringResource(R.string.task_symptom_check)
    else -> title
}

@Composable
private fun taskAbout(key: String): String? = when (key) {
    "smart_reply" -> stringResource(R.string.task_smart_reply_about)
    "translate" -> stringResource(R.string.task_translate_about)
    "summarize" -> stringResource(R.string.task_summarize_about)
    "symptom_check" -> stringResource(R.string.task_symptom_check_about)
    else -> null
}

@Composable
private fun taskIcon(key: String): ImageVector = when (key) {
    "smart_reply" -> Icons.Default.MailOutline
    "translate" -> ImageVector.vectorResource(R.drawable.ic_translate)
    "summarize" -> Icons.AutoMirrored.Default.List
    "symptom_check" -> Icons.Default.Favorite
    else -> Icons.Default.Star
}
