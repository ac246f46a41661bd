package org.etpipeline.demo

import android.content.Context
import androidx.test.core.app.ApplicationProvider
import java.io.File
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BatteryReading
import org.etpipeline.core.BundleStore
import org.etpipeline.core.Conversation
import org.etpipeline.core.Embedder
import org.etpipeline.core.EngineException
import org.etpipeline.core.FolderSource
import org.etpipeline.core.Generation
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.JsonFolder
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Note
import org.etpipeline.core.PhoneFacts
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.StoredBundle
import org.etpipeline.demo.engine.EmbedderHolder
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.notes.FakeEmbedder
import org.etpipeline.demo.notes.NoteIndex
import org.etpipeline.demo.notes.NoteSearch
import org.etpipeline.demo.phone.Phone
import org.etpipeline.demo.sharing.OtherApps
import org.etpipeline.engine.AdapterStore

/** Qualifiers of the screens that are drawn. */
const val PHONE = "w411dp-h891dp-port-notnight-xhdpi"
const val PHONE_DARK = "w411dp-h891dp-port-night-xhdpi"
const val TABLET = "w1280dp-h800dp-land-notnight-mdpi"
const val TABLET_DARK = "w1280dp-h800dp-land-night-mdpi"

/** The bundle that the tests were given: the built-in model's. */
val bundleFolder: File get() = File(checkNotNull(System.getProperty("et.bundle")) { "run with --bundle" })

/** A phone that is whatever the test wants. */
class TestPhone : Phone {
    override var totalRam = 8_000_000_000L
    override var freeRam = 4_000_000_000L
    override var facts = PhoneFacts("Test Phone", "SM0000", listOf("xnnpack", "portable"), "1.3.1")
    override val name get() = facts.name
    override val threads = 2
    var battery: BatteryReading? = null
    var lostMicroAh = 0L // from one look at the battery to the next
    override val heat = MutableStateFlow<String?>("none")

    override fun pssBytes() = 50_000_000L
    override fun thermalStatus(): String? = heat.value
    override fun battery(): BatteryReading? =
        battery?.also { battery = it.copy(chargeMicroAh = it.chargeMicroAh - lostMicroAh) }
}

/**
 * Answers as told, word by word.
 *
 * With [isPaced] each word but the first waits for a [step]: nothing in a test has to be timed.
 */
class FakeEngine : LlmEngine {
    val answers = ArrayDeque<String>()
    val prompts = mutableListOf<String>()
    val requests = mutableListOf<GenerationRequest>()
    val temperatures get() = requests.map { it.sampling.temperature }
    val adapters = mutableListOf<File?>() // of each answer
    private var adapter: File? = null
    var isPaced = false
    var isDeaf = false // its word is done with its step, also when it is stopped
    var problem: Problem? = null
    var droppedPrompts = 0 // how many prompts are too long
    override var uses = 0L
    var loads = 0
    var resets = 0
    var isClosed = false

    private val steps = Channel<Unit>(Channel.UNLIMITED)
    @Volatile private var isStopped = false

    fun step(count: Int = 1) = repeat(count) { steps.trySend(Unit) }

    override suspend fun load(): Long = 7L.also {
        loads++
        uses++ // its context is empty
        isClosed = false
    }

    override suspend fun generate(
        prompt: String,
        request: GenerationRequest,
        onPiece: (String) -> Boolean,
    ): Generation {
        uses++
        if (droppedPrompts > 0) {
            droppedPrompts--
            throw EngineException(Problem.PromptTooLong)
        }
        prompts += prompt
        requests += request
        adapters += adapter
        problem?.let { throw EngineException(it) }
        isStopped = false
        val words = (answers.removeFirstOrNull() ?: "ok").split(Regex("(?<= )"))
        for ((index, word) in words.withIndex()) {
            if (index > 0 && isPaced) steps.receive()
            if (isStopped || !onPiece(word)) {
                return Generation(10, index, 12.0, 20.0, Generation.End.STOPPED)
            }
        }
        return Generation(10, words.size, 12.0, 20.0, Generation.End.MODEL)
    }

    override fun stop() {
        isStopped = true
        if (!isDeaf) step()
    }

    override suspend fun reset() {
        resets++
        uses++
    }

    override suspend fun startOver() {
        uses++
    }

    override suspend fun adapt(adapter: File?) {
        if (adapter != this.adapter) uses++
        this.adapter = adapter
    }

    override fun close() {
        isClosed = true
    }
}

/** The app with a [FakeEngine], a [TestPhone], and no files of before. */
open class TestApp : DemoApp() {
    val phone = TestPhone()
    var engine = FakeEngine() // a new process has a new one

    val embedder = FakeEmbedder()

    private var ofThisProcess: Services? = null
    override val services: Services
        get() = synchronized(embedder) { ofThisProcess ?: createServices().also { ofThisProcess = it } }

    /** As when the system has ended the app and the user comes back: what is left is on the disk. */
    fun startAgain() {
        synchronized(embedder) { ofThisProcess = null }
        engine = FakeEngine()
        takeIn()
        runBlocking { services.startup.state.first { it.isDone } }
    }

    protected open val newEngine: ((StoredBundle, Program) -> LlmEngine)? get() = { _, _ -> engine }
    protected open val newEmbedder: ((StoredBundle, Program) -> Embedder)? get() = { _, _ -> embedder }

    public override fun createServices(): Services {
        val store = BundleStore(File(filesDir, "bundles"))
        val preferences = getSharedPreferences("app", Context.MODE_PRIVATE)
        val slots = File(noBackupFilesDir, "adapter-slots")
        val models = newEngine?.let { ModelHolder(store, phone, preferences, slots, it) }
            ?: ModelHolder(store, phone, preferences, slots)
        val embedders = newEmbedder?.let { EmbedderHolder(store, phone, it) } ?: EmbedderHolder(store, phone)
        return Services(
            store = store,
            conversations = JsonFolder(File(filesDir, "chats"), Conversation.serializer()),
            notes = JsonFolder(File(filesDir, "notes"), Note.serializer()),
            phone = phone,
            preferences = preferences,
            models = models,
            adapters = AdapterStore(File(filesDir, "adapters")),
            startup = Startup(this, store, models, preferences),
            embedders = embedders,
            search = NoteSearch(NoteIndex(this), embedders),
            otherApps = OtherApps(preferences, models, freedAfterMs = 300),
        )
    }
}

/** The app on Android's own ExecuTorch library, on a phone that is a [TestPhone]. */
class RealEngineApp : TestApp() {
    override val newEngine = null
    override val newEmbedder = null
}

/** The app that the test runs in. */
val testApp: TestApp get() = ApplicationProvider.getApplicationContext()

/** Puts the tests' bundle into the store and selects it. */
fun TestApp.install(): StoredBundle {
    val bundle = services.store.import(FolderSource(bundleFolder))
    services.models.refresh()
    return bundle
}

/** Puts a bundle that embeds into the store: `minilm` or `small` of `tools/embeddings.py`. */
fun TestApp.installEmbedder(name: String = "small"): StoredBundle {
    val references = File(checkNotNull(System.getProperty("et.references")) { "run with --references" })
    return services.store.import(FolderSource(references.resolveSibling("embeddings/$name")))
}
