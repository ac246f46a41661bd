package org.etpipeline.demo.models

import android.content.res.Resources
import android.icu.text.CompactDecimalFormat
import androidx.compose.foundation.BorderStroke
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.FlowRowScope
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.Spacer
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.size
import androidx.compose.material.icons.Icons
import androidx.compose.material.icons.filled.Check
import androidx.compose.material.icons.filled.CheckCircle
import androidx.compose.material.icons.filled.KeyboardArrowDown
import androidx.compose.material.icons.filled.KeyboardArrowUp
import androidx.compose.material.icons.filled.Warning
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.HorizontalDivider
import androidx.compose.material3.Icon
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.pluralStringResource
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.clearAndSetSemantics
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import java.text.NumberFormat
import org.etpipeline.core.EmbeddingSpeed
import org.etpipeline.core.Fit
import org.etpipeline.core.Gate
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.Quality
import org.etpipeline.demo.R
import org.etpipeline.demo.fileSize
import org.etpipeline.demo.tasks.taskTitle
import org.etpipeline.demo.text
import org.etpipeline.engine.goesThroughLlmModule

/** One model: what it is, whether it fits this phone, how good and how fast it is. */
@Composable
internal fun ModelCard(item: ModelItem, actions: ModelsActions, delete: () -> Unit, modifier: Modifier = Modifier) {
    var details by rememberSaveable { mutableStateOf(false) }
    val manifest = item.bundle.manifest.takeIf { item.bundle.problem == null }
    val border = BorderStroke(2.dp, MaterialTheme.colorScheme.primary).takeIf { item.selected }
    Card(modifier.fillMaxWidth().testTag("model-${item.bundle.id}"), border = border) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
            Text(item.name, Modifier.semantics { heading() }, style = MaterialTheme.typography.titleMedium)
            if (manifest == null) {
                Refusal(item.refusal)
                Fact(stringResource(R.string.models_size), LocalResources.current.fileSize(item.bundle.bytes))
            } else {
                Facts(item, manifest)
                AdapterFacts(item, actions)
                if (details) Details(item, manifest)
            }
            Actions {
                TextButton(onClick = delete) { Text(stringResource(R.string.models_delete)) }
                if (manifest != null) {
                    TextButton(onClick = { details = !details }) {
                        Text(stringResource(R.string.models_details))
                        Icon(if (details) Icons.Default.KeyboardArrowUp else Icons.Default.KeyboardArrowDown, null)
                    }
                    if (item.selected) {
                        Sign(Icons.Default.Check, stringResource(R.string.models_selected), MaterialTheme.colorScheme.primary)
                    } else if (item.isSelectable) {
                        Button(onClick = { actions.select(item) }) { Text(stringResource(R.string.models_use)) }
                    }
                }
            }
        }
    }
}

/** Buttons at the end of a card, on as many lines as they need. */
@Composable
internal fun Actions(content: @Composable FlowRowScope.() -> Unit) {
    FlowRow(
        Modifier.fillMaxWidth(),
        horizontalArrangement = Arrangement.spacedBy(8.dp, Alignment.End),
        itemVerticalAlignment = Alignment.CenterVertically,
        content = content,
    )
}

@Composable
private fun Facts(item: ModelItem, manifest: Manifest) {
    val resources = LocalResources.current
    if (item.bundle.embeds) Fact(stringResource(R.string.models_purpose), stringResource(R.string.models_embeds))
    FlowRow(
        horizontalArrangement = Arrangement.spacedBy(24.dp),
        verticalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        Fact(stringResource(R.string.models_size), resources.fileSize(item.bundle.bytes))
        Fact(stringResource(R.string.models_parameters), resources.compact(manifest.what.parameters))
        item.program?.let {
            val context = pluralStringResource(R.plurals.models_tokens, it.maxContext, it.maxContext)
            Fact(stringResource(if (item.bundle.embeds) R.string.models_longest_text else R.string.models_context), context)
        }
        Fact(
            stringResource(R.string.models_licence),
            manifest.what.licence ?: stringResource(R.string.models_licence_unknown),
        )
    }
    MemoryFact(item, manifest)
    if (item.refusal != null && item.fit != Fit.TOO_LARGE) Refusal(item.refusal)
    item.program?.let {
        Fact(stringResource(R.string.models_runs_on), backendTitle(it.backend)) {
            val isChat = manifest.embedding == null
            if (isChat && goesThroughLlmModule(it)) Line(stringResource(R.string.models_temperature_only))
        }
    }
    QualityFact(manifest.qualityOf(item.program))
    val embedding = manifest.embedding
    if (embedding == null) SpeedFact(item.measured) else EmbeddingSpeedFact(embedding.speed.firstOrNull())
}

@Composable
private fun MemoryFact(item: ModelItem, manifest: Manifest) {
    val resources = LocalResources.current
    val peak = manifest.memoryOf(item.program).peakBytes
    val color = when (item.fit) {
        Fit.TOO_LARGE -> MaterialTheme.colorScheme.error
        Fit.TIGHT -> MaterialTheme.colorScheme.tertiary
        else -> MaterialTheme.colorScheme.primary
    }
    Fact(
        stringResource(R.string.models_memory),
        stringResource(R.string.models_memory_of, resources.fileSize(peak), resources.fileSize(item.totalRam)),
    ) {
        LinearProgressIndicator(
            progress = { if (item.totalRam > 0) (peak.toFloat() / item.totalRam).coerceIn(0f, 1f) else 0f },
            modifier = Modifier.fillMaxWidth().padding(vertical = 4.dp).clearAndSetSemantics {},
            color = color,
            trackColor = MaterialTheme.colorScheme.surfaceContainerLowest,
            drawStopIndicator = {},
        )
        when (item.fit) {
            Fit.FITS -> Sign(Icons.Default.CheckCircle, stringResource(R.string.models_fit_fits), color)
            Fit.TIGHT -> Sign(Icons.Default.Warning, stringResource(R.string.models_fit_tight), color)
            Fit.TOO_LARGE -> {
                Sign(Icons.Default.Warning, stringResource(R.string.models_fit_too_large), color)
                item.refusal?.let { Line(it.text(resources)) } // with the numbers
            }
            null -> Unit
        }
    }
}

@Composable
private fun QualityFact(quality: Quality) {
    Fact(stringResource(R.string.models_quality)) {
        Verdict(quality.gate)
        quality.worstTask?.let { (task, change) -> Line(stringResource(R.string.models_worst_task, taskTitle(task), change)) }
        quality.embedding?.let { Line(stringResource(R.string.models_same_order, it.original.rankCorrelation * 100)) }
        quality.lowestTop1?.let { Line(stringResource(R.string.models_top1, it * 100)) }
        quality.perplexity?.let { Line(stringResource(R.string.models_perplexity, it.deployed, it.original)) }
    }
}

@Composable
internal fun Verdict(gate: Gate) {
    if (gate.passed) {
        Sign(Icons.Default.CheckCircle, stringResource(R.string.models_gate_passed), MaterialTheme.colorScheme.primary)
    } else {
        Sign(Icons.Default.Warning, stringResource(R.string.models_gate_failed), MaterialTheme.colorScheme.error)
    }
}

@Composable
private fun SpeedFact(measured: Measured?) {
    val numbers = NumberFormat.getIntegerInstance(LocalResources.current.configuration.locales[0])
    Fact(stringResource(R.string.models_speed)) {
        if (measured == null) {
            Line(stringResource(R.string.models_speed_unknown))
        } else {
            val rate = numbers.format(measured.speed.decodeTokS.p50)
            Line(stringResource(R.string.models_speed_value, rate, numbers.format(measured.speed.ttftMs.p50)))
            Line(
                if (measured.here) {
                    stringResource(R.string.models_speed_here)
                } else {
                    stringResource(R.string.models_speed_elsewhere, measured.speed.where)
                },
            )
        }
    }
}

/** Of a model that embeds. */
@Composable
private fun EmbeddingSpeedFact(speed: EmbeddingSpeed?) {
    val numbers = NumberFormat.getIntegerInstance(LocalResources.current.configuration.locales[0])
    Fact(stringResource(R.string.models_speed)) {
        if (speed == null) {
            Line(stringResource(R.string.models_speed_unknown))
        } else {
            val tokens = pluralStringResource(R.plurals.models_tokens, speed.tokens, speed.tokens)
            Line(stringResource(R.string.models_text_speed, numbers.format(speed.textMs.p50), tokens))
            Line(stringResource(R.string.models_speed_elsewhere, speed.where))
        }
    }
}

@Composable
private fun Refusal(problem: Problem?) {
    if (problem == null) return
    Column(verticalArrangement = Arrangement.spacedBy(4.dp)) {
        Sign(Icons.Default.Warning, stringResource(R.string.models_unusable), MaterialTheme.colorScheme.error)
        Text(problem.text(LocalResources.current), style = MaterialTheme.typography.bodyMedium)
    }
}

/** What only a curious user wants to know. */
@Composable
private fun Details(item: ModelItem, manifest: Manifest) {
    val resources = LocalResources.current
    HorizontalDivider()
    val failed = manifest.qualityOf(item.program).gate.checks.filterNot { it.passed }
    if (failed.isNotEmpty()) {
        val numbers = NumberFormat.getInstance(resources.configuration.locales[0]).apply { maximumFractionDigits = 4 }
        Fact(stringResource(R.string.models_checks_failed)) {
            for (check in failed) {
                val value = numbers.format(check.value)
                Line(stringResource(R.string.models_check, check.name, value, numbers.format(check.threshold)))
            }
        }
    }
    Fact(stringResource(R.string.models_programs)) {
        manifest.programs.forEach { ProgramLines(it, it == item.program, it.signature in manifest.callable) }
    }
    Fact(stringResource(R.string.models_files)) {
        for ((name, file) in manifest.files) {
            Line(stringResource(R.string.models_name_and_value, name, resources.fileSize(file.size)))
        }
    }
    Fact(stringResource(R.string.models_source), manifest.what.source.source) {
        manifest.what.source.revision?.let { Line(stringResource(R.string.models_revision, it)) }
        manifest.what.created?.let { Line(stringResource(R.string.models_created, it)) }
    }
    Fact(stringResource(R.string.models_tools), manifest.what.tools.entries.joinToString { (name, version) -> "$name $version" })
}

/** One program of the bundle in few lines, which a screen reader reads as one. */
@Composable
private fun ProgramLines(program: Program, isChosen: Boolean, isCallable: Boolean) {
    val fallback = program.fallbackOperators.values.sum()
    val facts = listOfNotNull(
        program.recipe,
        if (program.soc.isEmpty()) {
            stringResource(R.string.models_program_any_chip)
        } else {
            stringResource(R.string.models_program_chips, program.soc.joinToString())
        },
        program.hexagon?.let { stringResource(R.string.models_program_hexagon, it) },
        stringResource(R.string.models_program_runtime, program.minRuntime),
        program.qairt?.let { stringResource(R.string.models_program_qairt, it) },
        program.signature.takeIf { !isCallable }?.let { stringResource(R.string.models_program_signature, it) },
        pluralStringResource(R.plurals.models_fallback, fallback, fallback),
        when {
            !program.executed -> stringResource(R.string.models_program_not_executed)
            program.twin -> stringResource(R.string.models_program_twin)
            else -> stringResource(R.string.models_program_executed)
        },
    )
    Column(Modifier.padding(vertical = 4.dp).testTag("program-${program.file}").semantics(mergeDescendants = true) {}) {
        Line(stringResource(R.string.models_name_and_value, program.file, backendTitle(program.backend)))
        if (isChosen) {
            Sign(Icons.Default.Check, stringResource(R.string.models_program_chosen), MaterialTheme.colorScheme.primary)
        }
        Text(
            facts.joinToString(stringResource(R.string.separator)),
            style = MaterialTheme.typography.bodySmall,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }
}

/** A small label above what it names. */
@Composable
internal fun Fact(label: String, value: String? = null, more: @Composable () -> Unit = {}) {
    Column {
        Text(
            label,
            style = MaterialTheme.typography.labelMedium,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
        if (value != null) Line(value)
        more()
    }
}

@Composable
internal fun Line(text: String) {
    Text(text, style = MaterialTheme.typography.bodyMedium)
}

/** A verdict: never by colour alone. */
@Composable
internal fun Sign(icon: ImageVector, text: String, color: Color) {
    Row(verticalAlignment = Alignment.CenterVertically) {
        Icon(icon, contentDescription = null, modifier = Modifier.size(20.dp), tint = color)
        Spacer(Modifier.size(8.dp))
        Text(text, style = MaterialTheme.typography.bodyMedium, color = color)
    }
}

@Composable
private fun backendTitle(backend: String): String = when (backend) {
    "xnnpack" -> stringResource(R.string.models_backend_xnnpack)
    "vulkan" -> stringResource(R.string.models_backend_vulkan)
    "qnn" -> stringResource(R.string.models_backend_qnn)
    "portable" -> stringResource(R.string.models_backend_portable)
    else -> backend
}

/** A count as people say it, such as "135M". */
private fun Resources.compact(number: Long): String =
    CompactDecimalFormat.getInstance(configuration.locales[0], CompactDecimalFormat.CompactStyle.SHORT)
        .apply { maximumSignificantDigits = 3 }
        .format(number)
