package org.etpipeline.demo.chat

import androidx.activity.compose.BackHandler
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.BoxWithConstraints
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.heightIn
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.itemsIndexed
import androidx.compose.foundation.lazy.rememberLazyListState
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.text.KeyboardActions
import androidx.compose.foundation.text.KeyboardOptions
import androidx.compose.foundation.text.TextAutoSize
import androidx.compose.foundation.verticalScroll
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.automirrored.filled.Send
import androidx.compose.material.icons.filled.Add
import androidx.compose.material.icons.filled.Close
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.FilledIconButton
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.ModalBottomSheet
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.SuggestionChip
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.material3.rememberModalBottomSheetState
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.painterResource
import androidx.compose.ui.res.pluralStringResource
import androidx.compose.ui.res.stringArrayResource
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.res.vectorResource
import androidx.compose.ui.text.input.ImeAction
import androidx.compose.ui.text.input.KeyboardCapitalization
import androidx.compose.ui.unit.dp
import androidx.compose.ui.unit.sp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.compose.viewModel
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Conversation
import org.etpipeline.core.Problem
import org.etpipeline.core.Role
import org.etpipeline.demo.R
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.fileSize
import org.etpipeline.demo.text
import org.etpipeline.demo.ui.EmptyState
import org.etpipeline.demo.ui.ErrorCard
import org.etpipeline.demo.ui.READABLE_WIDTH
import org.etpipeline.demo.ui.ScreenTitle
import org.etpipeline.demo.ui.byContent

/**
 * What is typed, and not sent yet.
 *
 * @property replacing place of the question that it takes the place of.
 */
data class Draft(val text: String = "", val replacing: Int? = null)

/** What the user can do on the chat screen. */
data class ChatActions(
    val write: (Draft) -> Unit = {},
    val send: (text: String, replacing: Int?) -> Unit = { _, _ -> },
    val stop: () -> Unit = {},
    val regenerate: () -> Unit = {},
    val goOn: () -> Unit = {},
    val set: (ChatSettings) -> Unit = {},
    val export: (ChatExport) -> Unit = {},
    val startNew: () -> Unit = {},
    val open: (Conversation) -> Unit = {},
    val delete: (Conversation) -> Unit = {},
    val dismissProblem: () -> Unit = {},
    val openModels: () -> Unit = {},
)

/**
 * Talks to the selected model.
 *
 * @param asked text that another screen wants to ask here.
 * @param onAskedTaken it is in the text field now.
 */
@Composable
fun ChatScreen(
    asked: String,
    onAskedTaken: () -> Unit,
    onOpenModels: () -> Unit,
    modifier: Modifier = Modifier,
    viewModel: ChatViewModel = viewModel(factory = ChatViewModel.Factory),
) {
    val state by viewModel.state.collectAsStateWithLifecycle()
    val exporter = rememberExporter(state.conversation, viewModel)
    LaunchedEffect(asked) {
        if (asked.isNotEmpty()) {
            viewModel.draft = Draft(asked)
            onAskedTaken()
        }
    }
    val actions = ChatActions(
        write = { viewModel.draft = it },
        send = viewModel::send,
        stop = viewModel::stop,
        regenerate = viewModel::regenerate,
        goOn = viewModel::goOn,
        set = viewModel::set,
        export = exporter,
        startNew = {
            viewModel.draft = Draft()
            viewModel.startNew()
        },
        open = {
            viewModel.draft = Draft()
            viewModel.open(it)
        },
        delete = {
            if (it.id == state.conversation.id) viewModel.draft = Draft()
            viewModel.delete(it)
        },
        dismissProblem = viewModel::dismissProblem,
        openModels = onOpenModels,
    )
    var isInHistory by rememberSaveable { mutableStateOf(false) }
    if (isInHistory) {
        BackHandler { isInHistory = false }
        HistoryContent(state.history, actions, onClose = { isInHistory = false }, modifier)
    } else {
        ChatContent(state, actions, onHistory = { isInHistory = true }, modifier, viewModel.draft)
    }
}

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun ChatContent(
    state: ChatState,
    actions: ChatActions,
    onHistory: () -> Unit,
    modifier: Modifier = Modifier,
    draft: Draft = Draft(),
) {
    var isSetting by rememberSaveable { mutableStateOf(false) }
    val hasModel = state.model != ModelHolder.State.Empty
    fun send() {
        if (!hasModel || draft.text.isBlank() || state.phase != ChatState.Phase.IDLE) return
        actions.send(draft.text, draft.replacing)
        actions.write(Draft())
    }
    Scaffold(
        modifier = modifier,
        topBar = {
            TopAppBar(
                title = { ModelTitle(state) },
                actions = {
                    IconButton(onHistory) {
                        Icon(painterResource(R.drawable.ic_history), stringResource(R.string.chat_history))
                    }
                    IconButton(actions.startNew, enabled = state.turns.isNotEmpty()) {
                        Icon(Icons.Default.Add, stringResource(R.string.chat_new))
                    }
                    ChatMenu(state, actions, onSettings = { isSetting = true })
                },
            )
        },
    ) { insets ->
        Column(
            Modifier.fillMaxSize().padding(insets).imePadding(),
            horizontalAlignment = Alignment.CenterHorizontally,
        ) {
            val width = Modifier.widthIn(max = READABLE_WIDTH).fillMaxWidth()
            ModelProgress(state, width)
            BoxWithConstraints(width.weight(1f)) {
                // In large letters a sentence may fill a small screen: what is typed, and its buttons, stay in reach.
                val most = maxHeight * 0.6f
                AnnouncedAnswer(state)
                Column {
                    Box(Modifier.weight(1f)) {
                        if (state.turns.isEmpty()) {
                            Welcome(state, actions)
                        } else {
                            Turns(state, actions, onEdit = { index ->
                                actions.write(Draft(state.turns[index].text, replacing = index))
                            })
                        }
                    }
                    val problem = state.problem ?: state.startup.problem
                    problem?.let {
                        val around = Modifier.heightIn(max = most).verticalScroll(rememberScrollState())
                        Trouble(it, state, actions, around.padding(horizontal = 16.dp, vertical = 8.dp))
                    }
                }
            }
            if (draft.replacing != null) {
                Row(width.padding(horizontal = 16.dp), verticalAlignment = Alignment.CenterVertically) {
                    Text(stringResource(R.string.chat_editing), Modifier.weight(1f), style = MaterialTheme.typography.labelLarge)
                    IconButton({ actions.write(Draft()) }) {
                        Icon(Icons.Default.Close, stringResource(R.string.chat_edit_cancel))
                    }
                }
            }
            Row(width.padding(start = 16.dp, end = 8.dp, top = 4.dp, bottom = 8.dp), verticalAlignment = Alignment.CenterVertically) {
                OutlinedTextField(
                    draft.text,
                    { actions.write(draft.copy(text = it)) },
                    Modifier.weight(1f).testTag("chat-input"),
                    enabled = hasModel,
                    textStyle = LocalTextStyle.current.byContent,
                    placeholder = { Text(stringResource(R.string.chat_hint)) },
                    maxLines = 6,
                    shape = MaterialTheme.shapes.extraLarge,
                    keyboardOptions = KeyboardOptions(KeyboardCapitalization.Sentences, imeAction = ImeAction.Send),
                    keyboardActions = KeyboardActions(onSend = { send() }),
                )
                if (state.phase == ChatState.Phase.IDLE) {
                    val canSend = hasModel && draft.text.isNotBlank()
                    FilledIconButton(::send, Modifier.padding(8.dp).testTag("send"), enabled = canSend) {
                        Icon(Icons.AutoMirrored.Default.Send, stringResource(R.string.chat_send))
                    }
                } else {
                    FilledIconButton(actions.stop, Modifier.padding(8.dp).testTag("stop")) {
                        Icon(painterResource(R.drawable.ic_stop), stringResource(R.string.chat_stop))
                    }
                }
            }
        }
    }
    if (isSetting) SettingsSheet(state, actions, onClose = { isSetting = false })
}

@OptIn(ExperimentalMaterial3Api::class)
@Composable
private fun SettingsSheet(state: ChatState, actions: ChatActions, onClose: () -> Unit) {
    val own = state.own ?: return
    ModalBottomSheet(onClose, sheetState = rememberModalBottomSheetState(skipPartiallyExpanded = true)) {
        ChatSettingsContent(state.settings, own, actions.set, battery = state.battery)
    }
}

@Composable
private fun ModelTitle(state: ChatState) {
    val name = state.model.bundle?.manifest?.what?.name
    val adapter = state.settings.adapter?.let { stringResource(R.string.chat_adapter, it) }
    Column {
        ScreenTitle(name ?: stringResource(R.string.app_name), style = LocalTextStyle.current.byContent)
        val style = MaterialTheme.typography.labelMedium
        Text(
            listOfNotNull(adapter, stringResource(R.string.chat_offline))
                .joinToString(stringResource(R.string.separator)),
            Modifier.testTag("chat-subtitle"),
            style = style,
            autoSize = TextAutoSize.StepBased(8.sp, style.fontSize), // all of it, in large letters, too
            color = MaterialTheme.colorScheme.onSurfaceVariant,
            maxLines = 1,
        )
    }
}

/** What the user waits for: the copy of a built-in model, or the loading of one. */
@Composable
private fun ModelProgress(state: ChatState, modifier: Modifier) {
    val text = when {
        state.model is ModelHolder.State.Loading -> stringResource(R.string.chat_loading)
        !state.startup.isDone && state.startup.copied > 0 ->
            stringResource(R.string.chat_installing, LocalResources.current.fileSize(state.startup.copied))
        else -> return
    }
    Column(modifier.padding(horizontal = 16.dp).testTag("progress")) {
        Text(text, style = MaterialTheme.typography.labelLarge)
        LinearProgressIndicator(Modifier.fillMaxWidth().padding(vertical = 4.dp))
    }
}

/** An empty chat: what can be asked, or how to get a model. */
@Composable
private fun Welcome(state: ChatState, actions: ChatActions) {
    val icon = ImageVector.vectorResource(R.drawable.ic_chat)
    if (state.model == ModelHolder.State.Empty) {
        if (!state.startup.isDone) return
        EmptyState(icon, stringResource(R.string.chat_no_model_title), stringResource(R.string.chat_no_model_text)) {
            TextButton(actions.openModels) { Text(stringResource(R.string.chat_open_models)) }
        }
        return
    }
    EmptyState(icon, stringResource(R.string.chat_welcome_title), stringResource(R.string.chat_welcome_text)) {
        // Asked as they stand in every language: the built-in model knows English only.
        stringArrayResource(R.array.chat_examples).forEach { example ->
            val label = @Composable { Text(example, style = LocalTextStyle.current.byContent) }
            SuggestionChip({ actions.send(example, null) }, label, Modifier.testTag("example"))
        }
    }
}

@Composable
private fun Trouble(problem: Problem, state: ChatState, actions: ChatActions, modifier: Modifier) {
    val isAboutModel = problem is Problem.NotEnoughMemory || problem is Problem.NoProgram || problem == Problem.NoModel ||
        state.model is ModelHolder.State.Failed
    Column(modifier.testTag("problem")) {
        ErrorCard(problem.text(LocalResources.current), onDismiss = actions.dismissProblem)
        Row(Modifier.fillMaxWidth(), Arrangement.End) {
            if (isAboutModel) TextButton(actions.openModels) { Text(stringResource(R.string.chat_open_models)) }
            if (problem == Problem.PromptTooLong) TextButton(actions.startNew) { Text(stringResource(R.string.chat_new)) }
        }
    }
}

@Composable
private fun Turns(state: ChatState, actions: ChatActions, onEdit: (Int) -> Unit) {
    val list = rememberLazyListState()
    val turns = state.turns
    // Follows the answer, unless the user has scrolled up to read something else.
    LaunchedEffect(state.conversation.id, turns.size) { list.scrollToItem(turns.size, END) }
    LaunchedEffect(turns.last().text.length, turns.last().stats) {
        val shown = list.layoutInfo.visibleItemsInfo.lastOrNull()
        if (shown != null && shown.index >= turns.size - 1) list.scrollToItem(turns.size, END)
    }
    LazyColumn(Modifier.fillMaxSize().testTag("turns"), list, verticalArrangement = Arrangement.spacedBy(4.dp)) {
        if (state.leftOut > 0) {
            item {
                Text(
                    pluralStringResource(R.plurals.chat_left_out, state.leftOut, state.leftOut),
                    Modifier.fillMaxWidth().padding(16.dp).testTag("left-out"),
                    style = MaterialTheme.typography.labelLarge,
                    color = MaterialTheme.colorScheme.onSurfaceVariant,
                )
            }
        }
        itemsIndexed(turns) { index, turn ->
            if (turn.role == Role.USER) {
                Question(turn, canEdit = state.phase == ChatState.Phase.IDLE, onEdit = { onEdit(index) })
            } else {
                val isLast = index == turns.lastIndex
                val isComing = isLast && state.phase == ChatState.Phase.WRITING
                Answer(
                    turn,
                    isComing,
                    onRegenerate = actions.regenerate.takeIf { isLast && state.phase == ChatState.Phase.IDLE },
                    onGoOn = actions.goOn.takeIf { isLast && state.canGoOn },
                )
            }
        }
        item { // also a place to scroll to: the end of the last message
            when {
                state.phase == ChatState.Phase.WAITING -> Thinking()
                turns.last().role == Role.USER && state.phase == ChatState.Phase.IDLE ->
                    TextButton(actions.regenerate, Modifier.padding(horizontal = 8.dp)) {
                        Text(stringResource(R.string.chat_answer_this))
                    }
            }
        }
    }
}

private const val END = 1 shl 20 // pixels; the list stops at its end
