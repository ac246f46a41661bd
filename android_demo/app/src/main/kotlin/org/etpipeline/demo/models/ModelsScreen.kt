package org.etpipeline.demo.models

import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.contract.ActivityResultContracts.OpenDocument
import androidx.activity.result.contract.ActivityResultContracts.OpenDocumentTree
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.BoxWithConstraints
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.heightIn
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.staggeredgrid.LazyVerticalStaggeredGrid
import androidx.compose.foundation.lazy.staggeredgrid.StaggeredGridCells
import androidx.compose.foundation.lazy.staggeredgrid.StaggeredGridItemSpan
import androidx.compose.foundation.lazy.staggeredgrid.items
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Add
import androidx.compose.material3.AlertDialog
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.DropdownMenu
import androidx.compose.material3.DropdownMenuItem
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.ExtendedFloatingActionButton
import androidx.compose.material3.Icon
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.res.vectorResource
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.compose.viewModel
import org.etpipeline.demo.R
import org.etpipeline.demo.fileSize
import org.etpipeline.demo.sharing.OtherAppsSwitch
import org.etpipeline.demo.text
import org.etpipeline.demo.ui.EmptyState
import org.etpipeline.demo.ui.ErrorCard
import org.etpipeline.demo.ui.ScreenTitle

/** What a zip is called by providers; some know it only as bytes, and the store finds out what it is. */
private val ZIP_TYPES = arrayOf("application/zip", "application/x-zip-compressed", "application/octet-stream")

/** No provider knows what a .ptd is. */
private val ADAPTER_TYPES = arrayOf("application/octet-stream", "*/*")

/** The models on this phone. */
@Composable
fun ModelsScreen(modifier: Modifier = Modifier, viewModel: ModelsViewModel = viewModel(factory = ModelsViewModel.Factory)) {
    val state by viewModel.state.collectAsStateWithLifecycle()
    val resolver = LocalContext.current.applicationContext.contentResolver
    val pickZip = rememberLauncherForActivityResult(OpenDocument()) { uri ->
        if (uri != null) viewModel.import { zipSource(resolver, uri) }
    }
    val pickFolder = rememberLauncherForActivityResult(OpenDocumentTree()) { uri ->
        if (uri != null) viewModel.import { treeSource(resolver, uri) }
    }
    var adapted by rememberSaveable { mutableStateOf("") } // id of the bundle that gets an adapter
    val pickAdapter = rememberLauncherForActivityResult(OpenDocument()) { uri ->
        if (uri != null) viewModel.addAdapter(adapted) { pickedFile(resolver, uri) }
    }
    ModelsContent(
        state = state,
        actions = ModelsActions(
            importZip = { pickZip.launch(ZIP_TYPES) },
            importFolder = { pickFolder.launch(null) },
            cancelImport = viewModel::cancelImport,
            select = viewModel::select,
            delete = viewModel::delete,
            dismiss = viewModel::dismiss,
            addAdapter = {
                adapted = it.bundle.id
                pickAdapter.launch(ADAPTER_TYPES)
            },
            removeAdapter = viewModel::removeAdapter,
            letOthersAsk = viewModel::letOthersAsk,
        ),
        modifier = modifier,
    )
}

/** What can be done on the models screen. */
class ModelsActions(
    val importZip: () -> Unit = {},
    val importFolder: () -> Unit = {},
    val cancelImport: () -> Unit = {},
    val select: (ModelItem) -> Unit = {},
    val delete: (ModelItem) -> Unit = {},
    val dismiss: () -> Unit = {},
    val addAdapter: (ModelItem) -> Unit = {},
    val removeAdapter: (ModelItem, name: String) -> Unit = { _, _ -> },
    val letOthersAsk: (Boolean) -> Unit = {},
)

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun ModelsContent(state: ModelsState, actions: ModelsActions, modifier: Modifier = Modifier) {
    Scaffold(
        modifier = modifier,
        topBar = { TopAppBar(title = { ScreenTitle(stringResource(R.string.models_title)) }) },
        floatingActionButton = {
            // Not over what has to be read and dismissed first.
            val isQuiet = state.importing == null && state.problem == null && state.imported == null
            if (!state.models.isNullOrEmpty() && isQuiet) ImportButton(actions)
        },
    ) { insets ->
        BoxWithConstraints(Modifier.padding(insets).fillMaxSize()) {
            val most = maxHeight * 0.6f // the list stays in sight, and what does not fit is scrolled to
            Column {
                Column(Modifier.heightIn(max = most).verticalScroll(rememberScrollState())) { Notices(state, actions) }
                val models = state.models
                when {
                    models == null -> Unit
                    models.isEmpty() -> if (state.importing == null) NoModels(actions)
                    else -> ModelList(models, state.othersMayAsk, actions)
                }
            }
        }
    }
}

@Composable
private fun ImportButton(actions: ModelsActions) {
    var open by rememberSaveable { mutableStateOf(false) }
    Box {
        ExtendedFloatingActionButton(
            text = { Text(stringResource(R.string.models_import)) },
            icon = { Icon(Icons.Default.Add, stringResource(R.string.models_import)) }, // its text is not read out
            onClick = { open = true },
            modifier = Modifier.testTag("import"),
        )
        DropdownMenu(expanded = open, onDismissRequest = { open = false }) {
            DropdownMenuItem(
                text = { Text(stringResource(R.string.models_import_zip)) },
                onClick = { open = false; actions.importZip() },
            )
            DropdownMenuItem(
                text = { Text(stringResource(R.string.models_import_folder)) },
                onClick = { open = false; actions.importFolder() },
            )
        }
    }
}

@Composable
private fun NoModels(actions: ModelsActions) {
    EmptyState(
        icon = ImageVector.vectorResource(R.drawable.ic_models),
        title = stringResource(R.string.models_empty_title),
        text = stringResource(R.string.models_empty_text),
    ) {
        Button(onClick = actions.importZip) { Text(stringResource(R.string.models_import_zip)) }
        OutlinedButton(onClick = actions.importFolder) { Text(stringResource(R.string.models_import_folder)) }
    }
}

/** What happens or happened to an import, above the list so that it is seen wherever the list stands. */
@Composable
private fun Notices(state: ModelsState, actions: ModelsActions) {
    val around = Modifier.padding(horizontal = 16.dp, vertical = 8.dp).fillMaxWidth()
    state.problem?.let { problem ->
        ErrorCard(problem.text(LocalResources.current), onDismiss = actions.dismiss, modifier = around.testTag("problem"))
    }
    state.importing?.let { ImportCard(it, actions.cancelImport, around) }
    state.imported?.let { item ->
        Card(around.testTag("imported")) {
            Column(Modifier.padding(16.dp)) {
                Text(
                    stringResource(R.string.models_imported, item.name),
                    Modifier.semantics { liveRegion = LiveRegionMode.Polite },
                )
                Actions {
                    TextButton(onClick = actions.dismiss) { Text(stringResource(R.string.models_dismiss)) }
                    if (item.isSelectable || item.refusal != null) { // selecting it says why it is refused
                        Button(onClick = { actions.select(item) }) { Text(stringResource(R.string.models_use)) }
                    }
                }
            }
        }
    }
}

@Composable
private fun ImportCard(importing: Importing, cancel: () -> Unit, modifier: Modifier) {
    val resources = LocalResources.current
    val total = importing.total
    Card(modifier.testTag("importing")) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
            Text(
                importing.name?.let { stringResource(R.string.models_importing, it) }
                    ?: stringResource(R.string.models_import_starting),
                style = MaterialTheme.typography.titleMedium,
            )
            if (total != null && total > 0) {
                LinearProgressIndicator(
                    progress = { (importing.done.toFloat() / total).coerceIn(0f, 1f) },
                    modifier = Modifier.fillMaxWidth(),
                )
                Text(
                    stringResource(
                        R.string.models_import_progress,
                        resources.fileSize(importing.done),
                        resources.fileSize(total),
                    ),
                )
            } else {
                LinearProgressIndicator(Modifier.fillMaxWidth())
                if (importing.done > 0) Text(resources.fileSize(importing.done))
            }
            Text(
                stringResource(R.string.models_import_checking),
                style = MaterialTheme.typography.bodySmall,
                color = MaterialTheme.colorScheme.onSurfaceVariant,
            )
            Actions { TextButton(onClick = cancel) { Text(stringResource(R.string.models_cancel)) } }
        }
    }
}

@Composable
private fun ModelList(models: List<ModelItem>, othersMayAsk: Boolean, actions: ModelsActions) {
    var asked by rememberSaveable { mutableStateOf<String?>(null) }
    LazyVerticalStaggeredGrid(
        columns = StaggeredGridCells.Adaptive(minSize = 360.dp),
        contentPadding = PaddingValues(start = 16.dp, top = 8.dp, end = 16.dp, bottom = 96.dp), // room below for the button
        verticalItemSpacing = 12.dp,
        horizontalArrangement = Arrangement.spacedBy(12.dp),
        modifier = Modifier.fillMaxSize().testTag("models"),
    ) {
        items(models, key = { it.bundle.id }) { item ->
            ModelCard(item, actions, delete = { asked = item.bundle.id })
        }
        item(span = StaggeredGridItemSpan.FullLine) { OtherAppsSwitch(othersMayAsk, actions.letOthersAsk) }
    }
    models.find { it.bundle.id == asked }?.let { item ->
        AlertDialog(
            onDismissRequest = { asked = null },
            title = { Text(stringResource(R.string.models_delete_title, item.name)) },
            text = {
                val size = LocalResources.current.fileSize(item.bundle.bytes)
                Text(stringResource(R.string.models_delete_text, size), Modifier.verticalScroll(rememberScrollState()))
            },
            confirmButton = {
                TextButton(
                    onClick = { asked = null; actions.delete(item) },
                    modifier = Modifier.testTag("confirm-delete"),
                ) { Text(stringResource(R.string.models_delete)) }
            },
            dismissButton = {
                TextButton(onClick = { asked = null }) { Text(stringResource(R.string.models_cancel)) }
            },
        )
    }
}
