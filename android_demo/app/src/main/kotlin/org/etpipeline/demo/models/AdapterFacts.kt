package org.etpipeline.demo.models

import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Close
import androidx.compose.material3.Icon
import androidx.compose.material3.IconButton
import androidx.compose.material3.TextButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.etpipeline.demo.R
import org.etpipeline.demo.fileSize
import org.etpipeline.engine.KnownAdapter

/** What makes other models of this one, where its program takes that. */
@Composable
internal fun AdapterFacts(item: ModelItem, actions: ModelsActions) {
    if ((item.program?.adapterRank ?: 0) == 0) return
    Fact(stringResource(R.string.models_adapters), stringResource(R.string.models_adapters_about)) {
        if (item.adapters.isEmpty()) Line(stringResource(R.string.models_adapters_none))
        for (adapter in item.adapters) AdapterLines(adapter) { actions.removeAdapter(item, adapter.name) }
        TextButton({ actions.addAdapter(item) }) { Text(stringResource(R.string.models_adapter_add)) }
    }
}

/** One adapter in few lines, which a screen reader reads as one; only one that the user has added can be removed. */
@Composable
private fun AdapterLines(adapter: KnownAdapter, remove: () -> Unit) {
    Row(Modifier.fillMaxWidth(), verticalAlignment = Alignment.CenterVertically) {
        Column(
            Modifier.weight(1f).padding(vertical = 4.dp).testTag("adapter-${adapter.name}")
                .semantics(mergeDescendants = true) {},
        ) {
            val size = LocalResources.current.fileSize(adapter.bytes)
            Line(stringResource(R.string.models_name_and_value, adapter.name, size))
            val said = adapter.said
            if (said == null) {
                Line(stringResource(R.string.models_adapter_unmeasured))
            } else {
                said.about?.let { Line(it) }
                Verdict(said.quality.gate)
                Line(stringResource(R.string.models_adapter_top1, said.quality.agreement.top1 * 100))
            }
        }
        if (adapter.said == null) {
            IconButton(remove) {
                Icon(Icons.Default.Close, stringResource(R.string.models_adapter_remove, adapter.name))
            }
        }
    }
}
