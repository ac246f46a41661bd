package org.etpipeline.demo.chat

import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.size
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberUpdatedState
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalResources
import androidx.compose.ui.platform.testTag
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import kotlinx.coroutines.delay
import org.etpipeline.core.Sentences
import org.etpipeline.core.partsOf

private const val EVERY_MS = 2_000L
private const val FORGOTTEN_MS = 10_000L

/**
 * Has a screen reader say the answer while it comes. A live region that grew with each token would be read from its
 * beginning each time; this one is given the sentences that have ended, every two seconds, and at the end the rest.
 */
@Composable
internal fun AnnouncedAnswer(state: ChatState) {
    val isComing = state.phase == ChatState.Phase.WRITING
    val answer by rememberUpdatedState(partsOf(state.turns.lastOrNull()?.text.orEmpty()).answer)
    val locale = LocalResources.current.configuration.locales[0]
    var sentences by remember { mutableStateOf<Sentences?>(null) }
    var said by remember { mutableStateOf("") }
    // Who leaves the screen while it comes, and returns, is not read all of it again.
    var read by rememberSaveable { mutableStateOf(state.asked.at to state.asked.kept) }
    LaunchedEffect(isComing) {
        if (isComing) {
            val (at, kept) = state.asked
            val coming = Sentences(locale, if (read.first == at) read.second else kept).also { sentences = it }
            while (true) {
                delay(EVERY_MS)
                coming.ended(answer).let { if (it.isNotEmpty()) said = it }
                read = at to coming.done
            }
        }
        said = sentences?.rest(answer).orEmpty()
        sentences = null
        delay(FORGOTTEN_MS) // who looks through the page finds the answer itself
        said = ""
    }
    Box(
        Modifier.size(1.dp).testTag("announced").semantics {
            liveRegion = LiveRegionMode.Polite
            if (said.isNotEmpty()) contentDescription = said
        },
    )
}
