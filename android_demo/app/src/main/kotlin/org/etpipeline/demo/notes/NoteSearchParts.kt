package org.etpipeline.demo.notes

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.LazyListScope
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.lazy.itemsIndexed
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Clear
import androidx.compose.material.icons.filled.Search
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedCard
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.remember
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import org.etpipeline.core.Note
import org.etpipeline.core.search.Hit
import org.etpipeline.core.search.WordSearch
import org.etpipeline.demo.R
import org.etpipeline.demo.tasks.NoteCard
import org.etpipeline.demo.tasks.NotesActions
import org.etpipeline.demo.tasks.Outcome
import org.etpipeline.demo.tasks.Progress
import org.etpipeline.demo.tasks.announcedAtEnd
import org.etpipeline.demo.text
import org.etpipeline.demo.ui.byContent

/** Where a query is typed, and the button that asks it. */
@Composable
internal fun SearchField(state: NoteSearchState, actions: NotesActions, modifier: Modifier = Modifier) {
    Column(modifier, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedTextField(
            value = state.query,
            onValueChange = actions.search,
            modifier = Modifier.fillMaxWidth().testTag("search-notes"),
            textStyle = LocalTextStyle.current.byContent,
            label = { Text(stringResource(R.string.notes_search)) },
            leadingIcon = { Icon(Icons.Default.Search, contentDescription = null) },
            trailingIcon = {
                if (state.query.isNotEmpty()) {
                    IconButton(onClick = { actions.search("") }) {
                        Icon(Icons.Default.Clear, contentDescription = stringResource(R.string.notes_search_clear))
                    }
                }
            },
            maxLines = 3,
        )
        if (state.query.isNotBlank() && state.isPossible == true) {
            Row(Modifier.fillMaxWidth(), Arrangement.End) {
                if (state.run?.isRunning == true) {
                    Button(onClick = actions.stop, Modifier.testTag("stop")) { Text(stringResource(R.string.task_stop)) }
                } else {
                    Button(onClick = actions.ask, Modifier.testTag("ask-notes")) {
                        Text(stringResource(R.string.notes_ask))
                    }
                }
            }
        }
    }
}

/** The answer, and the notes that were found: those with the words of the query, then those of like meaning. */
@Composable
internal fun SearchResults(
    notes: List<Note>,
    state: NoteSearchState,
    actions: NotesActions,
    modifier: Modifier = Modifier,
) {
    val withWords = remember(notes, state.query) {
        val words = WordSearch(state.query)
        notes.filter { words.finds(it.text) }
    }
    val shown = (withWords.map { it.id } + state.sources.map { it.note }).toSet()
    val byId = notes.associateBy { it.id }
    val alike = state.found.orEmpty().filter { it.note !in shown && it.note in byId }
    LazyColumn(
        modifier.fillMaxSize().testTag("found-notes"),
        contentPadding = PaddingValues(start = 16.dp, end = 16.dp, bottom = 96.dp), // room for the button
        verticalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        if (state.isPossible == false) item { NoEmbedder(actions.openModels) }
        state.problem?.let { item { Text(it.text(LocalResources.current), color = MaterialTheme.colorScheme.error) } }
        answer(state, byId.keys, actions.open)
        if (withWords.isNotEmpty()) {
            item { Heading(stringResource(R.string.notes_with_words)) }
            items(withWords, key = { "words-${it.id}" }) { NoteCard(it) { actions.open(it.id) } }
        }
        if (alike.isNotEmpty()) {
            item { Heading(stringResource(R.string.notes_by_meaning)) }
            items(alike, key = { "alike-${it.note}" }) { hit ->
                NoteCard(byId.getValue(hit.note), hit.chunk.text) { actions.open(hit.note) }
            }
        }
        state.indexing?.let { (done, total) -> item { Indexing(done, total) } }
        val isDone = state.isPossible == false || state.found != null
        if (withWords.isEmpty() && alike.isEmpty() && state.sources.isEmpty() && isDone) item { Text(stringResource(R.string.notes_nothing_found)) }
    }
}

private fun LazyListScope.answer(state: NoteSearchState, notes: Set<String>, open: (String) -> Unit) {
    val run = state.run ?: return
    item {
        Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
            Progress(run)
            if (run.answer.isNotBlank()) {
                Card(Modifier.fillMaxWidth()) {
                    SelectionContainer {
                        val around = Modifier.padding(16.dp).testTag("answer").announcedAtEnd(run)
                        Text(run.answer, around, style = LocalTextStyle.current.byContent)
                    }
                }
            }
            Outcome(run)
        }
    }
    if (state.sources.isEmpty()) return
    item { Heading(stringResource(R.string.notes_sources)) }
    itemsIndexed(state.sources) { at, source ->
        // A note may have been deleted since.
        Source(at + 1, source, if (source.note in notes) ({ open(source.note) }) else null)
    }
}

@Composable
private fun Source(number: Int, source: Hit, open: (() -> Unit)?) {
    OutlinedCard(
        onClick = { open?.invoke() },
        Modifier.fillMaxWidth().testTag("source-$number"),
        enabled = open != null,
    ) {
        Row(Modifier.padding(16.dp), Arrangement.spacedBy(12.dp)) {
            Text("[$number]", style = MaterialTheme.typography.titleSmall, color = MaterialTheme.colorScheme.primary)
            Text(
                source.chunk.text,
                style = MaterialTheme.typography.bodyMedium.byContent,
                maxLines = 3,
                overflow = TextOverflow.Ellipsis,
            )
        }
    }
}

@Composable
private fun Heading(text: String) {
    Text(text, Modifier.padding(top = 4.dp).semantics { heading() }, style = MaterialTheme.typography.titleSmall)
}

/** What is missing for a search by meaning, and where to get it. */
@Composable
private fun NoEmbedder(openModels: () -> Unit) {
    Card(Modifier.fillMaxWidth().testTag("no-embedder")) {
        Column(Modifier.padding(start = 16.dp, top = 16.dp, end = 16.dp)) {
            Text(stringResource(R.string.notes_no_embedder))
            Row(Modifier.fillMaxWidth(), Arrangement.End) {
                TextButton(onClick = openModels) { Text(stringResource(R.string.tasks_open_models)) }
            }
        }
    }
}

@Composable
private fun Indexing(done: Int, total: Int) {
    Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
        LinearProgressIndicator(progress = { done.toFloat() / total }, Modifier.fillMaxWidth())
        Text(
            stringResource(R.string.notes_indexing, done, total),
            style = MaterialTheme.typography.bodySmall,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }
}
