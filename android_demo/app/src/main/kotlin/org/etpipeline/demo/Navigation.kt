package org.etpipeline.demo

import androidx.activity.compose.BackHandler
import androidx.annotation.DrawableRes
import androidx.annotation.StringRes
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.BoxWithConstraints
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.WindowInsets
import androidx.compose.foundation.layout.WindowInsetsSides
import androidx.compose.foundation.layout.consumeWindowInsets
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.ime
import androidx.compose.foundation.layout.only
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawing
import androidx.compose.foundation.layout.union
import androidx.compose.foundation.layout.windowInsetsPadding
import androidx.compose.foundation.text.TextAutoSize
import androidx.compose.material3.Icon
import androidx.compose.material3.LocalTextStyle
import androidx.compose.material3.NavigationBar
import androidx.compose.material3.NavigationBarItem
import androidx.compose.material3.NavigationRail
import androidx.compose.material3.NavigationRailItem
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.saveable.rememberSaveableStateHolder
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.res.painterResource
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import androidx.compose.ui.unit.sp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import kotlinx.coroutines.flow.Flow
import org.etpipeline.core.isHot
import org.etpipeline.demo.benchmark.BenchmarkScreen
import org.etpipeline.demo.chat.ChatScreen
import org.etpipeline.demo.models.ModelsScreen
import org.etpipeline.demo.tasks.TasksScreen
import org.etpipeline.demo.ui.QuietNotice

/** The app's four places. */
enum class Place(@StringRes val title: Int, @DrawableRes val icon: Int) {
    CHAT(R.string.place_chat, R.drawable.ic_chat),
    TASKS(R.string.place_tasks, R.drawable.ic_tasks),
    MODELS(R.string.place_models, R.drawable.ic_models),
    BENCHMARK(R.string.place_benchmark, R.drawable.ic_benchmark),
}

private val WIDE = 600.dp // Material's border between a phone held upright and everything wider

/**
 * The whole app: one place at a time, chosen at the bottom, or at the side where there is room.
 *
 * @param heat the phone's thermal status, whenever it changes.
 */
@Composable
fun App(arriving: Arriving, heat: Flow<String?>) {
    val thermalStatus by heat.collectAsStateWithLifecycle(null)
    var place by rememberSaveable { mutableStateOf(Place.CHAT) }
    val kept = rememberSaveableStateHolder()
    LaunchedEffect(arriving.shared) { if (arriving.shared != null) place = Place.TASKS }
    BackHandler(enabled = place != Place.CHAT) { place = Place.CHAT }

    AppScaffold(place, onPlace = { place = it }, isHot(thermalStatus)) {
        kept.SaveableStateProvider(place) {
            when (place) {
                Place.CHAT -> ChatScreen(
                    arriving.asked,
                    onAskedTaken = { arriving.asked = "" },
                    onOpenModels = { place = Place.MODELS },
                )
                Place.TASKS -> TasksScreen(
                    arriving.shared,
                    onSharedTextTaken = { arriving.shared = null },
                    onAskInChat = {
                        arriving.asked = it
                        place = Place.CHAT
                    },
                    onOpenModels = { place = Place.MODELS },
                )
                Place.MODELS -> ModelsScreen()
                Place.BENCHMARK -> BenchmarkScreen(onOpenModels = { place = Place.MODELS })
            }
        }
    }
}

/** Content with the places at its bottom or side, and with why it is slow where the phone [isHot]. */
@Composable
fun AppScaffold(place: Place, onPlace: (Place) -> Unit, isHot: Boolean = false, content: @Composable () -> Unit) {
    Surface(Modifier.fillMaxSize()) {
        BoxWithConstraints {
            val isWide = maxWidth >= WIDE
            val below = WindowInsets.safeDrawing.only(WindowInsetsSides.Bottom)
            val beside = WindowInsets.safeDrawing.only(WindowInsetsSides.Start)
            // Compose saves what the content remembers by where it is called: here alone, or turning would lose it.
            Row {
                if (isWide) {
                    NavigationRail(Modifier.testTag("navigation")) {
                        Place.entries.forEach {
                            val label = @Composable { PlaceLabel(it) }
                            NavigationRailItem(it == place, { onPlace(it) }, { PlaceIcon(it) }, label = label)
                        }
                    }
                }
                Column(Modifier.weight(1f)) {
                    val taken = if (!isWide) below else if (isHot) beside.union(below) else beside
                    Box(Modifier.weight(1f).fillMaxWidth().consumeWindowInsets(taken)) { content() }
                    if (isHot) HotNotice(if (isWide) Modifier.windowInsetsPadding(below) else Modifier)
                    if (!isWide) PlaceBar(place, onPlace)
                }
            }
        }
    }
}

@Composable
private fun PlaceBar(place: Place, onPlace: (Place) -> Unit) {
    // The bar lies under the keyboard, which then takes the place of both.
    val around = WindowInsets.safeDrawing.only(WindowInsetsSides.Horizontal + WindowInsetsSides.Bottom)
        .union(WindowInsets.ime.only(WindowInsetsSides.Bottom))
    NavigationBar(Modifier.testTag("navigation"), windowInsets = around) {
        Place.entries.forEach {
            NavigationBarItem(it == place, { onPlace(it) }, { PlaceIcon(it) }, label = { PlaceLabel(it) })
        }
    }
}

@Composable
private fun HotNotice(modifier: Modifier = Modifier) =
    QuietNotice(stringResource(R.string.phone_hot), modifier.testTag("hot"))

@Composable
private fun PlaceIcon(place: Place) = Icon(painterResource(place.icon), contentDescription = null)

@Composable
private fun PlaceLabel(place: Place) {
    val largest = LocalTextStyle.current.fontSize
    Text(
        stringResource(place.title),
        Modifier.padding(horizontal = 4.dp), // in large letters labels would touch, and the edge of the screen
        autoSize = TextAutoSize.StepBased(8.sp, largest),
        softWrap = false,
        maxLines = 1,
    )
}
