package org.etpipeline.demo.chat

import androidx.compose.foundation.clickable
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.automirrored.filled.ArrowBack
import androidx.compose.material.icons.filled.Clear
import androidx.compose.material.icons.filled.Delete
import androidx.compose.material.icons.filled.Search
import androidx.compose.material3.AlertDialog
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.ListItem
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.res.vectorResource
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import java.text.DateFormat
import java.util.Date
import org.etpipeline.core.ChatSearch
import org.etpipeline.core.Conversation
import org.etpipeline.core.SearchedText
import org.etpipeline.demo.R
import org.etpipeline.demo.ui.EmptyState
import org.etpipeline.demo.ui.READABLE_WIDTH
import org.etpipeline.demo.ui.ScreenTitle
import org.etpipeline.demo.ui.byContent

/** The earlier chats, the newest first. */
@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun HistoryContent(history: List<Conversation>, actions: ChatActions, onClose: () -> Unit, modifier: Modifier = Modifier) {
    var query by rememberSaveable { mutableStateOf("") }
    val texts = remember(history) { history.map { it to SearchedText(it) } }
    val found = remember(texts, query) {
        val search = ChatSearch(query)
        texts.filter { (_, text) -> search.finds(text) }.map { (conversation, _) -> conversation }
    }
    var deleting by rememberSaveable { mutableStateOf<String?>(null) }
    val locale = LocalResources.current.configuration.locales[0]
    val dates = DateFormat.getDateTimeInstance(DateFormat.MEDIUM, DateFormat.SHORT, locale)
    Scaffold(
        modifier = modifier,
        topBar = {
            TopAppBar(
                title = { ScreenTitle(stringResource(R.string.chat_history)) },
                navigationIcon = {
                    IconButton(onClose) { Icon(Icons.AutoMirrored.Default.ArrowBack, stringResource(R.string.back)) }
                },
            )
        },
    ) { insets ->
        Box(Modifier.fillMaxSize().padding(insets), Alignment.TopCenter) {
            if (history.isEmpty()) {
                EmptyState(
                    ImageVector.vectorResource(R.drawable.ic_history),
                    stringResource(R.string.history_empty_title),
                    stringResource(R.string.history_empty_text),
                )
            } else {
                LazyColumn(Modifier.widthIn(max = READABLE_WIDTH).fillMaxSize()) {
                    item { SearchField(query) { query = it } }
                    if (found.isEmpty()) {
                        item {
                            val nothing = stringResource(R.string.history_nothing_found)
                            Text(nothing, Modifier.padding(16.dp).testTag("nothing-found"))
                        }
                    }
                    items(found, key = { it.id }) { conversation ->
                        ListItem(
                            headlineContent = {
                                val style = LocalTextStyle.current.byContent
                                Text(conversation.title, maxLines = 2, overflow = TextOverflow.Ellipsis, style = style)
                            },
                            supportingContent = { Text(dates.format(Date(conversation.updated))) },
                            trailingContent = {
                                IconButton({ deleting = conversation.id }) {
                                    Icon(Icons.Default.Delete, stringResource(R.string.history_delete_this, conversation.title))
                                }
                            },
                            modifier = Modifier.fillMaxWidth().testTag("conversation").clickable {
                                actions.open(conversation)
                                onClose()
                            },
                        )
                    }
                }
            }
        }
    }
    history.find { it.id == deleting }?.let { conversation ->
        AlertDialog(
            onDismissRequest = { deleting = null },
            title = { Text(stringResource(R.string.history_delete_title)) },
            text = {
                val text = stringResource(R.string.history_delete_text, conversation.title)
                Text(text, Modifier.verticalScroll(rememberScrollState()))
            },
            confirmButton = {
                TextButton({
                    actions.delete(conversation)
                    deleting = null
                }) { Text(stringResource(R.string.delete)) }
            },
            dismissButton = { TextButton({ deleting = null }) { Text(stringResource(R.string.cancel)) } },
        )
    }
}

@Composable
private fun SearchField(query: String, onChange: (String) -> Unit) {
    OutlinedTextField(
        query,
        onChange,
        Modifier.fillMaxWidth().padding(horizontal = 16.dp, vertical = 8.dp).testTag("history-search"),
        textStyle = LocalTextStyle.current.byContent,
        label = { Text(stringResource(R.string.history_search)) },
        leadingIcon = { Icon(Icons.Default.Search, contentDescription = null) },
        trailingIcon = {
            if (query.isNotEmpty()) {
                IconButton({ onChange("") }) {
                    Icon(Icons.Default.Clear, stringResource(R.string.history_search_clear))
                }
            }
        },
        singleLine = true,
    )
}
