package org.etpipeline.demo.chat

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.selection.toggleable
import androidx.compose.foundation.text.KeyboardOptions
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Slider
import androidx.compose.material3.Switch
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.semantics.clearAndSetSemantics
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.heading
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.semantics.stateDescription
import androidx.compose.ui.text.input.KeyboardType
import androidx.compose.ui.unit.dp
import java.text.NumberFormat
import kotlin.math.abs
import kotlin.math.roundToInt
import org.etpipeline.core.BatteryUse
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.GenerationRequest
import org.etpipeline.demo.R
import org.etpipeline.demo.ui.byContent

private val LENGTHS = listOf(32, 64, 128, 256, 512, 1024, 2048, 4096)
private val TOP_KS = listOf(0, 1, 5, 10, 20, 40, 64, 100, 200)
private const val STEPS = 20 // from 0 to 1

/**
 * What counts for one conversation; what is set back to the model's own is forgotten.
 *
 * @param battery what the answers so far took; null: there were none.
 */
@Composable
fun ChatSettingsContent(
    settings: ChatSettings,
    own: OwnSettings,
    set: (ChatSettings) -> Unit,
    modifier: Modifier = Modifier,
    battery: BatteryUse? = null,
) {
    val request = settings.request(own.sampling, own.maxNewTokens)
    val now = request.sampling
    Column(
        modifier.fillMaxWidth().verticalScroll(rememberScrollState())
            .padding(start = 24.dp, end = 24.dp, bottom = 24.dp),
        Arrangement.spacedBy(8.dp),
    ) {
        Text(
            stringResource(R.string.settings_title),
            Modifier.semantics { heading() },
            style = MaterialTheme.typography.titleLarge,
        )
        Note(stringResource(R.string.settings_about))
        AdapterChoice(settings.adapter, own.adapters) { set(settings.copy(adapter = it)) }
        SystemPrompt(settings, own, set)
        own.thinks?.let { default ->
            Thinks(settings.thinks ?: default) { thinks -> set(settings.copy(thinks = thinks.takeIf { it != default })) }
        }
        Fraction(R.string.settings_temperature, now.temperature, ChatSettings.TEMPERATURES) { value ->
            set(settings.copy(temperature = value.unless(own.sampling.temperature)))
        }
        Note(stringResource(R.string.settings_temperature_about))
        if (own.knowsOnlyTemperature) {
            Note(stringResource(R.string.settings_temperature_only))
        } else {
            Fraction(R.string.settings_top_p, now.topP, ChatSettings.TOP_PS) { value ->
                set(settings.copy(topP = value.unless(own.sampling.topP)))
            }
            Whole(R.string.settings_top_k, now.topK, TOP_KS, zero = stringResource(R.string.settings_off)) { value ->
                set(settings.copy(topK = value.takeIf { it != own.sampling.topK }))
            }
            Fraction(R.string.settings_min_p, now.minP, ChatSettings.MIN_PS) { value ->
                set(settings.copy(minP = value.unless(own.sampling.minP)))
            }
            Fraction(R.string.settings_repetition, now.repetitionPenalty, ChatSettings.REPETITION_PENALTIES) { value ->
                set(settings.copy(repetitionPenalty = value.unless(own.sampling.repetitionPenalty)))
            }
            AnswerPenalties(settings, request, set)
            Seed(settings.seed) { set(settings.copy(seed = it)) }
        }
        Whole(R.string.settings_longest, request.maxNewTokens, LENGTHS.filter { it <= own.maxContext }) { value ->
            set(settings.copy(maxNewTokens = value.takeIf { it != own.maxNewTokens }))
        }
        TextButton({ set(ChatSettings()) }, Modifier.testTag("own-settings"), enabled = settings != ChatSettings()) {
            Text(stringResource(R.string.settings_own))
        }
        battery?.let { Note(stringResource(R.string.chat_battery, batteryText(it))) }
    }
}

@Composable
private fun batteryText(battery: BatteryUse): String = when (battery) {
    BatteryUse.Unknown -> stringResource(R.string.benchmark_battery_unknown)
    BatteryUse.Plugged -> stringResource(R.string.benchmark_battery_plugged)
    BatteryUse.TooLittle -> stringResource(R.string.chat_battery_few)
    is BatteryUse.Measured -> {
        val numbers = NumberFormat.getNumberInstance(LocalResources.current.configuration.locales[0])
        numbers.maximumFractionDigits = 1
        stringResource(R.string.benchmark_mah, numbers.format(battery.mahPer1000Tokens))
    }
}

/** Against words that come again and again in one answer. */
@Composable
private fun AnswerPenalties(settings: ChatSettings, now: GenerationRequest, set: (ChatSettings) -> Unit) {
    val range = ChatSettings.ANSWER_PENALTIES
    Fraction(R.string.settings_frequency, now.frequencyPenalty, range) { value ->
        set(settings.copy(frequencyPenalty = value.unless(0f)))
    }
    Fraction(R.string.settings_presence, now.presencePenalty, range) { value ->
        set(settings.copy(presencePenalty = value.unless(0f)))
    }
}

@Composable
private fun Seed(seed: Long?, set: (Long?) -> Unit) = OutlinedTextField(
    seed?.toString().orEmpty(),
    { text -> if (text.isEmpty()) set(null) else text.toLongOrNull()?.takeIf { it >= 0 }?.let(set) },
    Modifier.fillMaxWidth().testTag("seed"),
    label = { Text(stringResource(R.string.settings_seed)) },
    supportingText = { Text(stringResource(R.string.settings_seed_about)) },
    keyboardOptions = KeyboardOptions(keyboardType = KeyboardType.Number),
    singleLine = true,
)

@Composable
private fun SystemPrompt(settings: ChatSettings, own: OwnSettings, set: (ChatSettings) -> Unit) {
    if (!own.takesSystemPrompt) return Note(stringResource(R.string.settings_no_system))
    val model = own.systemPrompt.orEmpty()
    OutlinedTextField(
        settings.systemPrompt ?: model,
        { text -> set(settings.copy(systemPrompt = text.takeIf { it != model })) },
        Modifier.fillMaxWidth().testTag("system-prompt"),
        textStyle = LocalTextStyle.current.byContent,
        label = { Text(stringResource(R.string.settings_system)) },
        supportingText = { Text(stringResource(R.string.settings_system_about)) },
        maxLines = 6,
    )
}

@Composable
private fun Thinks(isOn: Boolean, onChange: (Boolean) -> Unit) {
    Row(
        Modifier.fillMaxWidth().toggleable(isOn, role = Role.Switch, onValueChange = onChange).testTag("thinks"),
        Arrangement.spacedBy(8.dp),
        Alignment.CenterVertically,
    ) {
        Column(Modifier.weight(1f)) {
            Text(stringResource(R.string.settings_thinks))
            Note(stringResource(R.string.settings_thinks_about))
        }
        Switch(isOn, onCheckedChange = null)
    }
}

@Composable
internal fun Note(text: String) =
    Text(text, style = MaterialTheme.typography.bodySmall, color = MaterialTheme.colorScheme.onSurfaceVariant)

/** A number with two digits behind the point. */
@Composable
private fun Fraction(label: Int, value: Float, range: ClosedFloatingPointRange<Float>, onChange: (Float) -> Unit) {
    val numbers = NumberFormat.getNumberInstance(LocalResources.current.configuration.locales[0])
    numbers.maximumFractionDigits = 2
    numbers.minimumFractionDigits = 2
    Labelled(label, numbers.format(value)) { modifier ->
        Slider(value, { onChange((it * STEPS).roundToInt() / STEPS.toFloat()) }, modifier, valueRange = range)
    }
}

/** One of some numbers, which need not lie at equal distances; the one that counts may be another. */
@Composable
private fun Whole(label: Int, value: Int, choices: List<Int>, zero: String? = null, onChange: (Int) -> Unit) {
    val all = (choices + value).distinct().sorted()
    val numbers = NumberFormat.getIntegerInstance(LocalResources.current.configuration.locales[0])
    Labelled(label, if (value == 0 && zero != null) zero else numbers.format(value)) { modifier ->
        val last = (all.size - 1).toFloat()
        Slider(all.indexOf(value).toFloat(), { onChange(all[it.roundToInt()]) }, modifier, valueRange = 0f..last)
    }
}

@Composable
private fun Labelled(label: Int, value: String, slider: @Composable (Modifier) -> Unit) {
    val name = stringResource(label)
    Column {
        Row(Modifier.fillMaxWidth().clearAndSetSemantics {}, Arrangement.spacedBy(8.dp)) {
            Text(name, Modifier.weight(1f))
            Text(value, color = MaterialTheme.colorScheme.primary)
        }
        slider(
            Modifier.testTag(name).semantics {
                contentDescription = name
                stateDescription = value
            },
        )
    }
}

private fun Float.unless(own: Float): Float? = takeIf { abs(it - own) > 0.1f / STEPS }
