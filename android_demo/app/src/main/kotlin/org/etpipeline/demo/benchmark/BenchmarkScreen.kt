package org.etpipeline.demo.benchmark

import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.contract.ActivityResultContracts.CreateDocument
import androidx.compose.foundation.Canvas
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.height
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.FilterChip
import androidx.compose.material3.HorizontalDivider
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.geometry.CornerRadius
import androidx.compose.ui.geometry.Offset
import androidx.compose.ui.geometry.Size
import androidx.compose.ui.graphics.PathEffect
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.pluralStringResource
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.res.vectorResource
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.text.style.TextAlign
import androidx.compose.ui.unit.LayoutDirection
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.compose.viewModel
import java.text.NumberFormat
import java.util.Locale
import org.etpipeline.core.BatteryUse
import org.etpipeline.core.BenchmarkPlan
import org.etpipeline.core.BenchmarkReport
import org.etpipeline.core.Percentiles
import org.etpipeline.core.Phase
import org.etpipeline.demo.R
import org.etpipeline.demo.fileSize
import org.etpipeline.demo.text
import org.etpipeline.demo.ui.EmptyState
import org.etpipeline.demo.ui.ErrorCard
import org.etpipeline.demo.ui.QuietNotice
import org.etpipeline.demo.ui.READABLE_WIDTH
import org.etpipeline.demo.ui.ScreenTitle

private val LENGTHS = listOf(16, 32, 64, 128, 256, 512, 1024)
private val ROUNDS = listOf(1, 3, 5, 10)

/** What the user can do on the benchmark screen. */
data class BenchmarkActions(
    val change: (BenchmarkPlan) -> Unit = {},
    val start: () -> Unit = {},
    val cancel: () -> Unit = {},
    val export: () -> Unit = {},
    val dismiss: () -> Unit = {},
    val openModels: () -> Unit = {},
)

/** Measures the selected model on this phone. */
@Composable
fun BenchmarkScreen(
    onOpenModels: () -> Unit,
    modifier: Modifier = Modifier,
    viewModel: BenchmarkViewModel = viewModel(factory = BenchmarkViewModel.Factory),
) {
    val state by viewModel.state.collectAsStateWithLifecycle()
    val resolver = LocalContext.current.applicationContext.contentResolver
    val place = rememberLauncherForActivityResult(CreateDocument("application/json")) { uri ->
        if (uri != null) viewModel.export(resolver, uri)
    }
    val actions = BenchmarkActions(
        change = viewModel::change,
        start = viewModel::start,
        cancel = viewModel::cancel,
        export = { place.launch("${state.report?.bundle}-benchmark.json") },
        dismiss = viewModel::dismiss,
        openModels = onOpenModels,
    )
    BenchmarkContent(state, actions, modifier)
}

@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun BenchmarkContent(state: BenchmarkState, actions: BenchmarkActions, modifier: Modifier = Modifier) {
    Scaffold(
        modifier,
        topBar = { TopAppBar(title = { ScreenTitle(stringResource(R.string.benchmark_title)) }) },
    ) { insets ->
        if (state.bundle == null) {
            EmptyState(
                ImageVector.vectorResource(R.drawable.ic_benchmark),
                stringResource(R.string.benchmark_no_model_title),
                stringResource(R.string.benchmark_no_model_text),
                Modifier.padding(insets),
            ) { TextButton(actions.openModels) { Text(stringResource(R.string.chat_open_models)) } }
            return@Scaffold
        }
        Box(Modifier.fillMaxSize().padding(insets), Alignment.TopCenter) {
            Column(
                Modifier.widthIn(max = READABLE_WIDTH).verticalScroll(rememberScrollState()).padding(16.dp),
                Arrangement.spacedBy(16.dp),
            ) {
                state.problem?.let { problem ->
                    // With a report on the screen it was the export that failed, and measuring again would lose the report.
                    val onRetry = actions.start.takeIf { state.report == null }
                    ErrorCard(problem.text(LocalResources.current), onDismiss = actions.dismiss, onRetry = onRetry)
                }
                Plan(state, actions)
                state.report?.let { Report(it, actions) }
            }
        }
    }
}

@Composable
private fun Plan(state: BenchmarkState, actions: BenchmarkActions) {
    val plan = state.plan
    val name = state.bundle?.manifest?.what?.name.orEmpty()
    Text(stringResource(R.string.benchmark_about, name))
    val isRunning = state.progress != null
    val fitting = LENGTHS.filter { it <= state.maxContext / 2 }
    Choice(stringResource(R.string.benchmark_prompt), fitting, plan.promptTokens, !isRunning) {
        actions.change(plan.copy(promptTokens = it))
    }
    Choice(stringResource(R.string.benchmark_answer), fitting, plan.decodeTokens, !isRunning) {
        actions.change(plan.copy(decodeTokens = it))
    }
    Choice(stringResource(R.string.benchmark_rounds), ROUNDS, plan.rounds, !isRunning) {
        actions.change(plan.copy(rounds = it))
    }
    if (state.isPlugged == true) {
        Text(
            stringResource(R.string.benchmark_plugged),
            style = MaterialTheme.typography.bodySmall,
            color = MaterialTheme.colorScheme.onSurfaceVariant,
        )
    }
    val progress = state.progress
    if (progress == null) {
        Button(actions.start, Modifier.testTag("benchmark-start")) { Text(stringResource(R.string.benchmark_start)) }
    } else {
        val what = when (progress.phase) {
            Phase.LOAD -> R.string.benchmark_phase_load
            Phase.PREPARE -> R.string.benchmark_phase_prepare
            Phase.WARM_UP -> R.string.benchmark_phase_warm_up
            Phase.MEASURE -> R.string.benchmark_phase_measure
        }
        Column(Modifier.testTag("benchmark-progress"), Arrangement.spacedBy(8.dp)) {
            Text(stringResource(R.string.benchmark_round, progress.done + 1, progress.of) + ": " + stringResource(what))
            LinearProgressIndicator({ progress.done.toFloat() / progress.of }, Modifier.fillMaxWidth())
            OutlinedButton(actions.cancel) { Text(stringResource(R.string.cancel)) }
        }
    }
}

@Composable
private fun Choice(title: String, options: List<Int>, chosen: Int, isEnabled: Boolean, onChoose: (Int) -> Unit) {
    Column {
        Text(title, style = MaterialTheme.typography.labelLarge)
        FlowRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            options.forEach { option ->
                FilterChip(option == chosen, { onChoose(option) }, { Text(whole(option.toDouble())) }, enabled = isEnabled)
            }
        }
    }
}

@Composable
private fun Report(report: BenchmarkReport, actions: BenchmarkActions) {
    val speed = report.speed
    Card(Modifier.fillMaxWidth().testTag("benchmark-report")) {
        Column(Modifier.padding(16.dp), Arrangement.spacedBy(8.dp)) {
            Text(
                speed.where,
                Modifier.semantics { heading() },
                style = MaterialTheme.typography.titleMedium,
            )
            Text(
                stringResource(R.string.benchmark_lengths, speed.promptTokens, speed.decodeTokens) +
                    stringResource(R.string.separator) +
                    pluralStringResource(R.plurals.benchmark_threads, speed.threads, speed.threads),
                color = MaterialTheme.colorScheme.onSurfaceVariant,
            )
            if (report.wasHot) QuietNotice(stringResource(R.string.benchmark_hot))
            Line("", stringResource(R.string.benchmark_median), stringResource(R.string.benchmark_p90), isHead = true)
            Spread(stringResource(R.string.benchmark_prefill), speed.prefillTokS)
            Spread(stringResource(R.string.benchmark_decode), speed.decodeTokS)
            Spread(stringResource(R.string.benchmark_ttft), speed.ttftMs)
            Spread(stringResource(R.string.benchmark_load), speed.loadMs)
            HorizontalDivider()
            Line(stringResource(R.string.benchmark_memory), LocalResources.current.fileSize(speed.peakRssBytes))
            val (before, after) = heatText(report.thermalBefore) to heatText(report.thermalAfter)
            val change = stringResource(R.string.benchmark_thermal_change, before, after)
            Line(stringResource(R.string.benchmark_thermal), change)
            Line(stringResource(R.string.benchmark_battery), batteryText(report))
            Chart(report)
        }
    }
    FlowRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedButton(actions.export, Modifier.testTag("benchmark-export")) { Text(stringResource(R.string.benchmark_export)) }
    }
}

@Composable
private fun ColumnScope.Spread(name: String, figures: Percentiles) = Line(name, decimal(figures.p50), decimal(figures.p90))

@Composable
private fun Line(name: String, value: String, second: String = "", isHead: Boolean = false) {
    val style = if (isHead) MaterialTheme.typography.labelMedium else MaterialTheme.typography.bodyLarge
    Row(Modifier.fillMaxWidth().semantics(mergeDescendants = true) {}, Arrangement.spacedBy(8.dp)) {
        Text(name, Modifier.weight(3f), style = style)
        Text(value, Modifier.weight(if (second.isEmpty()) 3f else 2f), style = style, textAlign = TextAlign.End)
        if (second.isNotEmpty()) Text(second, Modifier.weight(2f), style = style, textAlign = TextAlign.End)
    }
}

/** Answer tokens per second of each round, with the median as a line: a phone that gets hot shows as falling bars. */
@Composable
private fun Chart(report: BenchmarkReport) {
    val values = report.rounds.map { it.decodeTokS }
    val highest = values.max().coerceAtLeast(1e-9)
    val bar = MaterialTheme.colorScheme.primary
    val line = MaterialTheme.colorScheme.tertiary
    val text = stringResource(R.string.benchmark_chart, values.map { whole(it) }.joinToString())
    Text(stringResource(R.string.benchmark_chart_title), style = MaterialTheme.typography.labelLarge)
    Canvas(Modifier.fillMaxWidth().height(120.dp).semantics { contentDescription = text }.testTag("benchmark-chart")) {
        val step = size.width / values.size
        values.forEachIndexed { index, value ->
            val height = (value / highest * size.height).toFloat()
            val place = if (layoutDirection == LayoutDirection.Rtl) values.lastIndex - index else index
            drawRoundRect(
                bar,
                Offset(place * step + step * 0.15f, size.height - height),
                Size(step * 0.7f, height),
                CornerRadius(4.dp.toPx()),
            )
        }
        val y = size.height - (report.speed.decodeTokS.p50 / highest * size.height).toFloat()
        val dashes = PathEffect.dashPathEffect(floatArrayOf(6.dp.toPx(), 4.dp.toPx()))
        drawLine(line, Offset(0f, y), Offset(size.width, y), 2.dp.toPx(), pathEffect = dashes)
    }
}

/** What 1,000 tokens took, or why that is not known. */
@Composable
private fun batteryText(report: BenchmarkReport): String {
    val measured = report.batteryMahPer1000Tokens
    return when {
        measured != null -> stringResource(R.string.benchmark_mah, decimal(measured))
        report.battery == BatteryUse.Plugged.name -> stringResource(R.string.benchmark_battery_plugged)
        report.battery == BatteryUse.TooLittle.name -> stringResource(R.string.benchmark_battery_few)
        else -> stringResource(R.string.benchmark_battery_unknown)
    }
}

/** A word for what the system calls a thermal status. */
@Composable
private fun heatText(status: String?): String = stringResource(
    when (status) {
        "none" -> R.string.heat_none
        "light" -> R.string.heat_light
        "moderate" -> R.string.heat_moderate
        "severe" -> R.string.heat_severe
        "critical" -> R.string.heat_critical
        "emergency" -> R.string.heat_emergency
        "shutdown" -> R.string.heat_shutdown
        else -> R.string.benchmark_unknown
    },
)

@Composable
private fun locale(): Locale = LocalResources.current.configuration.locales[0]

@Composable
private fun whole(value: Double): String = NumberFormat.getIntegerInstance(locale()).format(value)

@Composable
private fun decimal(value: Double): String =
    NumberFormat.getInstance(locale()).apply { maximumFractionDigits = if (value < 100) 1 else 0 }.format(value)
