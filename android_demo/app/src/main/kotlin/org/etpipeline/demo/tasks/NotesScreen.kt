package org.etpipeline.demo.tasks

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.lazy.grid.GridCells
import androidx.compose.foundation.lazy.grid.LazyVerticalGrid
import androidx.compose.foundation.lazy.grid.items
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Add
import androidx.compose.material.icons.filled.Delete
import androidx.compose.material.icons.filled.Edit
import androidx.compose.material3.AlertDialog
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.ExtendedFloatingActionButton
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.SnackbarHost
import androidx.compose.material3.SnackbarHostState
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import androidx.lifecycle.Lifecycle
import androidx.lifecycle.compose.LifecycleEventEffect
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.compose.viewModel
import java.text.DateFormat
import java.util.Date
import org.etpipeline.core.Note
import org.etpipeline.demo.R
import org.etpipeline.demo.notes.NoteSearchState
import org.etpipeline.demo.notes.NoteSearchViewModel
import org.etpipeline.demo.notes.SearchField
import org.etpipeline.demo.notes.SearchResults
import org.etpipeline.demo.text
import org.etpipeline.demo.ui.EmptyState
import org.etpipeline.demo.ui.ErrorCard
import org.etpipeline.demo.ui.READABLE_WIDTH
import org.etpipeline.demo.ui.ScreenTitle
import org.etpipeline.demo.ui.byContent
import org.etpipeline.demo.ui.roomForLabel

private const val SUMMARIZE = "summarize"

@Composable
internal fun NotesPage(
    viewModel: NotesViewModel,
    open: (String) -> Unit,
    openModels: () -> Unit,
    back: () -> Unit,
    modifier: Modifier = Modifier,
    search: NoteSearchViewModel = viewModel(factory = NoteSearchViewModel.Factory),
) {
    val state by viewModel.state.collectAsStateWithLifecycle()
    val searchState by search.state.collectAsStateWithLifecycle()
    val notes = state.notes.orEmpty()
    val template = stringResource(R.string.notes_ask_prompt)
    // When the page is opened again: a note or the model may be another one. Not before the notes are read: the index
    // forgets those that are not there.
    LaunchedEffect(state.notes != null) {
        if (state.notes != null && searchState.run == null) search.search(searchState.query, notes)
    }
    NotesContent(
        state = state,
        actions = NotesActions(
            open = open,
            create = { open(viewModel.create()) },
            back = back,
            dismiss = viewModel::dismiss,
            search = { search.search(it, notes) },
            ask = { search.ask(template, notes) },
            stop = search::stop,
            openModels = openModels,
        ),
        search = searchState,
        modifier = modifier,
    )
}

/** What can be done in the list of notes. */
class NotesActions(
    val open: (String) -> Unit = {},
    val create: () -> Unit = {},
    val back: () -> Unit = {},
    val dismiss: () -> Unit = {},
    val search: (String) -> Unit = {},
    val ask: () -> Unit = {},
    val stop: () -> Unit = {},
    val openModels: () -> Unit = {},
)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun NotesContent(
    state: NotesState,
    actions: NotesActions,
    modifier: Modifier = Modifier,
    search: NoteSearchState = NoteSearchState(),
) {
    Scaffold(
        modifier = modifier,
        topBar = {
            TopAppBar(
                title = { ScreenTitle(stringResource(R.string.tasks_notes)) },
                navigationIcon = { BackButton(actions.back) },
            )
        },
        floatingActionButton = {
            ExtendedFloatingActionButton(
                text = { Text(stringResource(R.string.notes_new)) },
                icon = { Icon(Icons.Default.Add, stringResource(R.string.notes_new)) }, // its text is not read out
                onClick = actions.create,
                modifier = Modifier.testTag("new-note"),
            )
        },
    ) { insets ->
        Column(Modifier.padding(insets).fillMaxSize().imePadding(), horizontalAlignment = Alignment.CenterHorizontally) {
            state.problem?.let {
                ErrorCard(it.text(LocalResources.current), onDismiss = actions.dismiss, modifier = Modifier.padding(16.dp))
            }
            when {
                state.notes == null -> Unit
                state.notes.isEmpty() -> EmptyState(
                    icon = Icons.Default.Edit,
                    title = stringResource(R.string.notes_empty_title),
                    text = stringResource(R.string.notes_empty_text),
                    modifier = Modifier.padding(bottom = 72.dp), // room for the button
                )
                else -> {
                    val readable = Modifier.widthIn(max = READABLE_WIDTH)
                    SearchField(search, actions, readable.padding(horizontal = 16.dp).roomForLabel())
                    if (search.query.isBlank()) {
                        NoteList(state.notes, actions.open)
                    } else {
                        SearchResults(state.notes, search, actions, readable.padding(top = 12.dp))
                    }
                }
            }
        }
    }
}

@Composable
private fun NoteList(notes: List<Note>, open: (String) -> Unit) {
    LazyVerticalGrid(
        columns = GridCells.Adaptive(minSize = 280.dp),
        contentPadding = PaddingValues(start = 16.dp, top = 16.dp, end = 16.dp, bottom = 96.dp), // room for the button
        verticalArrangement = Arrangement.spacedBy(12.dp),
        horizontalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        items(notes, key = { it.id }) { NoteCard(it) { open(it.id) } }
    }
}

/** A note by its first line and what follows, or [part] of it. */
@Composable
internal fun NoteCard(note: Note, part: String? = null, onClick: () -> Unit) {
    val lines = note.text.lines().filter { it.isNotBlank() }
    val body = (part?.lines() ?: lines).filter { it.isNotBlank() && it != lines.first() }.joinToString(" ") { it.trim() }
    val dates = DateFormat.getDateInstance(DateFormat.MEDIUM, LocalResources.current.configuration.locales[0])
    Card(onClick, Modifier.fillMaxWidth().testTag("note-${note.id}")) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(4.dp)) {
            Text(
                lines.firstOrNull()?.trim() ?: stringResource(R.string.notes_new),
                style = MaterialTheme.typography.titleMedium.byContent,
                maxLines = 1,
                overflow = TextOverflow.Ellipsis,
            )
            if (body.isNotEmpty()) {
                Text(
                    body,
                    style = MaterialTheme.typography.bodyMedium.byContent,
                    maxLines = 2,
                    overflow = TextOverflow.Ellipsis,
                )
            }
            Text(
                dates.format(Date(note.updated)),
                style = MaterialTheme.typography.bodySmall,
                color = MaterialTheme.colorScheme.onSurfaceVariant,
            )
        }
    }
}

@Composable
internal fun NotePage(
    id: String,
    notes: NotesViewModel,
    tasks: TaskViewModel,
    back: () -> Unit,
    modifier: Modifier = Modifier,
) {
    val state by notes.state.collectAsStateWithLifecycle()
    val tasksState by tasks.state.collectAsStateWithLifecycle()
    val note = state.notes?.find { it.id == id }
    if (note == null) {
        if (state.notes != null) LaunchedEffect(id) { back() } // gone: an empty note is not kept when the app is killed
        return
    }
    var text by remember(id) { mutableStateOf(note.text) } // not saved: it may be long, and is on the disk
    fun edit(new: String) {
        text = new
        notes.edit(id, new)
    }
    LifecycleEventEffect(Lifecycle.Event.ON_STOP) { notes.save() }
    NoteContent(
        text = text,
        run = tasksState.run?.takeIf { it.task == SUMMARIZE },
        actions = NoteActions(
            text = ::edit,
            summarize = if (SUMMARIZE in tasksState.tasks) ({ tasks.run(SUMMARIZE, text) }) else null,
            stop = tasks::stop,
            add = { summary ->
                edit("${text.trimEnd()}\n\n${summary.trim()}\n")
                tasks.clear()
            },
            delete = {
                notes.delete(id)
                back()
            },
            back = back,
        ),
        modifier = modifier,
    )
}

/** What can be done with a note; [summarize] is null if the model cannot. */
class NoteActions(
    val text: (String) -> Unit = {},
    val summarize: (() -> Unit)? = null,
    val stop: () -> Unit = {},
    val add: (String) -> Unit = {},
    val delete: () -> Unit = {},
    val back: () -> Unit = {},
)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun NoteContent(text: String, run: TaskRun?, actions: NoteActions, modifier: Modifier = Modifier) {
    var deleting by rememberSaveable { mutableStateOf(false) }
    val snackbar = remember { SnackbarHostState() }
    Scaffold(
        modifier = modifier,
        topBar = {
            TopAppBar(
                title = { ScreenTitle(stringResource(R.string.notes_note)) },
                navigationIcon = { BackButton(actions.back) },
                actions = {
                    IconButton(onClick = { deleting = true }) {
                        Icon(Icons.Default.Delete, contentDescription = stringResource(R.string.notes_delete))
                    }
                },
            )
        },
        snackbarHost = { SnackbarHost(snackbar) },
    ) { insets ->
        Box(Modifier.padding(insets).fillMaxSize().imePadding(), Alignment.TopCenter) {
            Column(
                Modifier.widthIn(max = READABLE_WIDTH).verticalScroll(rememberScrollState()).padding(16.dp),
                verticalArrangement = Arrangement.spacedBy(16.dp),
            ) {
                OutlinedTextField(
                    value = text,
                    onValueChange = actions.text,
                    modifier = Modifier.fillMaxWidth().testTag("note-text"),
                    textStyle = LocalTextStyle.current.byContent,
                    label = { Text(stringResource(R.string.notes_text)) },
                    minLines = 8,
                )
                if (actions.summarize != null) SummarizeButton(text, run, actions.summarize, actions.stop)
                if (run != null) Summary(run, copier(snackbar), actions.add)
            }
        }
    }
    if (deleting) {
        AlertDialog(
            onDismissRequest = { deleting = false },
            title = { Text(stringResource(R.string.notes_delete_title)) },
            confirmButton = {
                TextButton(
                    onClick = { deleting = false; actions.delete() },
                    modifier = Modifier.testTag("confirm-delete"),
                ) { Text(stringResource(R.string.models_delete)) }
            },
            dismissButton = {
                TextButton(onClick = { deleting = false }) { Text(stringResource(R.string.models_cancel)) }
            },
        )
    }
}

@Composable
private fun SummarizeButton(text: String, run: TaskRun?, summarize: () -> Unit, stop: () -> Unit) {
    Row(Modifier.fillMaxWidth(), Arrangement.End) {
        if (run?.isRunning == true) {
            Button(onClick = stop, Modifier.testTag("stop")) { Text(stringResource(R.string.task_stop)) }
        } else {
            Button(onClick = summarize, Modifier.testTag("summarize"), enabled = text.isNotBlank()) {
                Text(stringResource(R.string.notes_summarize))
            }
        }
    }
}

@Composable
private fun Summary(run: TaskRun, copy: (String) -> Unit, add: (String) -> Unit) {
    Progress(run)
    if (run.answer.isNotBlank()) {
        Card(Modifier.fillMaxWidth()) {
            Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
                Text(
                    stringResource(R.string.notes_summary),
                    Modifier.semantics { heading() },
                    style = MaterialTheme.typography.titleSmall,
                )
                val style = LocalTextStyle.current.byContent
                Text(run.answer, Modifier.testTag("answer").announcedAtEnd(run), style = style)
                if (!run.isRunning) {
                    Row(Modifier.fillMaxWidth(), Arrangement.End) {
                        TextButton(onClick = { copy(run.answer) }) { Text(stringResource(R.string.task_copy)) }
                        TextButton(onClick = { add(run.answer) }, Modifier.testTag("add-summary")) {
                            Text(stringResource(R.string.notes_add_summary))
                        }
                    }
                }
            }
        }
    }
    Outcome(run)
}
