package org.etpipeline.demo.chat

import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.contract.ActivityResultContracts.CreateDocument
import androidx.compose.foundation.layout.Box
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.MoreVert
import androidx.compose.material3.DropdownMenu
import androidx.compose.material3.DropdownMenuItem
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import org.etpipeline.core.Conversation
import org.etpipeline.core.fileName
import org.etpipeline.core.toJson
import org.etpipeline.core.toMarkdown
import org.etpipeline.demo.R

/** Where a conversation can go, and in what form. */
enum class ChatExport { SHARE, MARKDOWN, JSON }

/** What is seldom wanted of a chat. */
@Composable
internal fun ChatMenu(state: ChatState, actions: ChatActions, onSettings: () -> Unit) {
    var isOpen by rememberSaveable { mutableStateOf(false) }
    Box {
        IconButton({ isOpen = true }, Modifier.testTag("chat-menu")) {
            Icon(Icons.Default.MoreVert, stringResource(R.string.chat_menu))
        }
        DropdownMenu(isOpen, { isOpen = false }) {
            @Composable
            fun choice(label: String, isEnabled: Boolean, onClick: () -> Unit) = DropdownMenuItem(
                text = { Text(label) },
                onClick = {
                    isOpen = false
                    onClick()
                },
                enabled = isEnabled,
            )
            val hasTurns = state.turns.isNotEmpty()
            choice(stringResource(R.string.settings_title), state.own != null, onSettings)
            choice(stringResource(R.string.export_share), hasTurns) { actions.export(ChatExport.SHARE) }
            choice(stringResource(R.string.export_markdown), hasTurns) { actions.export(ChatExport.MARKDOWN) }
            choice(stringResource(R.string.export_json), hasTurns) { actions.export(ChatExport.JSON) }
        }
    }
}

/** Hands a conversation to another app, or asks the user for a file and writes it there. */
@Composable
internal fun rememberExporter(conversation: Conversation, viewModel: ChatViewModel): (ChatExport) -> Unit {
    val context = LocalContext.current
    val resolver = context.applicationContext.contentResolver
    val user = stringResource(R.string.export_user)
    val model = stringResource(R.string.export_model)
    val markdown = rememberLauncherForActivityResult(CreateDocument("text/markdown")) { uri ->
        if (uri != null) viewModel.export(resolver, uri, conversation.toMarkdown(user, model))
    }
    val json = rememberLauncherForActivityResult(CreateDocument("application/json")) { uri ->
        if (uri != null) viewModel.export(resolver, uri, conversation.toJson())
    }
    return { form ->
        when (form) {
            ChatExport.SHARE -> context.share(conversation.toMarkdown(user, model))
            ChatExport.MARKDOWN -> markdown.launch(conversation.fileName() + ".md")
            ChatExport.JSON -> json.launch(conversation.fileName() + ".json")
        }
    }
}
