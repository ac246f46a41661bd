package org.etpipeline.demo.engine

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleStore
import org.etpipeline.core.Embedder
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.chooseProgram
import org.etpipeline.core.requireMemory
import org.etpipeline.demo.phone.Phone
import org.etpipeline.engine.EmbeddingEngine
import org.etpipeline.engine.moduleRuns

/**
 * Owns the one loaded model that embeds texts, beside the one that answers, see [ModelHolder]. There is nothing to
 * select: it is that of the first bundle of the store that embeds and runs here.
 */
class EmbedderHolder(
    private val store: BundleStore,
    private val phone: Phone,
    private val newEmbedder: (StoredBundle, Program) -> Embedder = { bundle, program ->
        EmbeddingEngine(bundle.folder, checkNotNull(bundle.manifest), program)
    },
) {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val turn = Mutex()
    private var loaded: Pair<String, Embedder>? = null // id of the bundle; guarded by turn

    /** Its bundle; null if there is none. Reads the store. */
    fun bundle(): StoredBundle? = usable()?.first

    /** Frees a model that is not the one to take any more: bundles have come or gone. Reads the store. */
    suspend fun refresh() = turn.withLock {
        if (loaded != null && loaded?.first != bundle()?.id) free()
    }

    /**
     * Runs [block] with the id of the bundle and its model. Others wait until it ends.
     *
     * @throws BundleException [Problem.NoModel]: no bundle embeds here.
     */
    suspend fun <T> use(block: suspend (id: String, embedder: Embedder) -> T): T = turn.withLock {
        val (id, embedder) = loaded ?: open().also { loaded = it }
        block(id, embedder)
    }

    /** Frees the model's memory; the next use loads it again. */
    suspend fun unload() = turn.withLock { free() }

    /** What the system says about memory. */
    fun onTrimMemory(level: Int) {
        if (isMemoryShort(level)) scope.launch { unload() }
    }

    private fun open(): Pair<String, Embedder> {
        val (bundle, program) = usable() ?: throw BundleException(Problem.NoModel)
        return bundle.id to newEmbedder(bundle, program)
    }

    private fun usable(): Pair<StoredBundle, Program>? =
        store.list().filter { it.embeds && it.problem == null && moduleRuns() }.firstNotNullOfOrNull { bundle ->
            try {
                val manifest = checkNotNull(bundle.manifest)
                val program = chooseProgram(manifest, phone.facts)
                requireMemory(manifest.memoryOf(program), phone.totalRam, phone.freeRam)
                bundle to program
            } catch (_: BundleException) {
                null // the models screen says why
            }
        }

    private fun free() {
        loaded?.second?.close()
        loaded = null
    }
}
