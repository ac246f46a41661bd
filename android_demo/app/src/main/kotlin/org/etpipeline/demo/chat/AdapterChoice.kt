package org.etpipeline.demo.chat

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.material3.FilterChip
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import org.etpipeline.demo.R
import org.etpipeline.engine.KnownAdapter

/**
 * Which adapter answers in this chat.
 *
 * @param chosen its name, also if the model does not have it; null: none.
 */
@Composable
internal fun AdapterChoice(chosen: String?, known: List<KnownAdapter>, choose: (String?) -> Unit) {
    if (known.isEmpty() && chosen == null) return
    Column {
        Text(stringResource(R.string.settings_adapter))
        FlowRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            val none = stringResource(R.string.settings_adapter_none)
            FilterChip(chosen == null, { choose(null) }, { Text(none) }, Modifier.testTag("no-adapter"))
            for (name in (known.map { it.name } + listOfNotNull(chosen)).distinct()) {
                FilterChip(name == chosen, { choose(name) }, { Text(name) }, Modifier.testTag("choose-$name"))
            }
        }
        val about = if (chosen == null) stringResource(R.string.settings_adapter_about) else null
        Note(about ?: aboutOf(known.find { it.name == chosen }))
        Note(stringResource(R.string.settings_adapter_change))
    }
}

@Composable
private fun aboutOf(adapter: KnownAdapter?): String {
    if (adapter == null) return stringResource(R.string.settings_adapter_gone)
    val said = adapter.said ?: return stringResource(R.string.settings_adapter_unmeasured)
    val failed = if (said.quality.gate.passed) null else stringResource(R.string.settings_adapter_failed)
    return listOfNotNull(said.about, failed).joinToString(" ").ifEmpty { adapter.name }
}
