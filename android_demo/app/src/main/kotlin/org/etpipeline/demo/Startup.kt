package org.etpipeline.demo

import android.content.Context
import android.content.SharedPreferences
import android.content.res.AssetManager
import androidx.core.content.edit
import java.io.File
import java.io.InputStream
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleSource
import org.etpipeline.core.BundleStore
import org.etpipeline.core.Problem
import org.etpipeline.core.ZipSource
import org.etpipeline.demo.engine.ModelHolder

/**
 * What happens before the first screen is of use: what a killed import left is removed, the models inside the app are
 * copied to where the runtime can map them, and those that a computer has pushed are taken in.
 */
class Startup(
    private val context: Context,
    private val store: BundleStore,
    private val models: ModelHolder,
    private val preferences: SharedPreferences,
) {
    /**
     * @property isDone whether the list of models is complete.
     * @property copied bytes of the model that is being copied, so far.
     * @property problem why a model could not be taken in.
     */
    data class State(val isDone: Boolean = false, val copied: Long = 0, val problem: Problem? = null)

    private val _state = MutableStateFlow(State())
    val state: StateFlow<State> = _state.asStateFlow()
    private val turn = Mutex()
    private var isClean = false

    /** May be called again, to see what was pushed in the meantime. */
    suspend fun run() = turn.withLock {
        if (!isClean) store.cleanUp()
        isClean = true
        models.refresh()
        installBuiltIn()
        takePushed()
        models.refresh()
        _state.value = _state.value.copy(isDone = true)
    }

    fun dismissProblem() {
        _state.value = _state.value.copy(problem = null)
    }

    /** Once for each version of the app: a built-in model that the user deletes stays away until the next update. */
    private fun installBuiltIn() {
        val version = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime
        if (preferences.getLong(INSTALLED, -1) == version) return
        val names = context.assets.children(FOLDER)
        val taken = names.map { take(AssetSource(context.assets, "$FOLDER/$it")) }
        if (taken.all { it }) preferences.edit { putLong(INSTALLED, version) }
    }

    /** A pushed zip goes away whether it was good or not: it would be refused again at every start. */
    private fun takePushed() {
        val inbox = context.getExternalFilesDir(INBOX) ?: return // the shared storage may be away
        inbox.listFiles { file -> file.name.endsWith(".zip") }.orEmpty().sorted().forEach { zip ->
            take(ZipSource(zip.name, zip.length(), zip::inputStream))
            zip.delete()
        }
    }

    private fun take(source: BundleSource): Boolean = try {
        val bundle = store.import(source, progress = { done, _ -> _state.value = _state.value.copy(copied = done) })
        models.refresh()
        bundle.problem == null
    } catch (error: BundleException) {
        _state.value = _state.value.copy(problem = error.problem)
        false
    }

    private companion object {
        const val FOLDER = "bundles"
        const val INBOX = "import"
        const val INSTALLED = "installed_built_in"
    }
}

/** A bundle inside the APK. */
private class AssetSource(private val assets: AssetManager, private val folder: String) : BundleSource {
    override val name: String = File(folder).name
    override val totalBytes: Long? = null

    override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) = visitFolder("", visit)

    private fun visitFolder(path: String, visit: (name: String, content: InputStream) -> Unit) {
        for (child in assets.children(folder + path)) {
            val inside = "$path/$child"
            val isFolder = assets.children(folder + inside).isNotEmpty()
            if (isFolder) visitFolder(inside, visit) else assets.open(folder + inside).use { visit(inside.drop(1), it) }
        }
    }
}

/** Robolectric's Android, unlike a phone's, also lists what lies deeper. */
private fun AssetManager.children(folder: String): List<String> =
    list(folder).orEmpty().map { it.substringBefore('/') }.distinct()
