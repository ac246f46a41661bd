package org.etpipeline.demo.screens

import androidx.compose.material3.Surface
import androidx.compose.runtime.Composable
import java.io.File
import org.etpipeline.core.Adapter
import org.etpipeline.core.AdapterQuality
import org.etpipeline.core.Agreement
import org.etpipeline.core.AnswerStats
import org.etpipeline.core.BatteryUse
import org.etpipeline.core.BenchmarkReport
import org.etpipeline.core.BenchmarkRound
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Check
import org.etpipeline.core.Conversation
import org.etpipeline.core.Embedding
import org.etpipeline.core.EmbeddingAgreement
import org.etpipeline.core.EmbeddingComparison
import org.etpipeline.core.EmbeddingSpeed
import org.etpipeline.core.FileInfo
import org.etpipeline.core.Fit
import org.etpipeline.core.Gate
import org.etpipeline.core.GreedyAgreement
import org.etpipeline.core.Manifest
import org.etpipeline.core.Memory
import org.etpipeline.core.Note
import org.etpipeline.core.Percentiles
import org.etpipeline.core.Phase
import org.etpipeline.core.Problem
import org.etpipeline.core.Quality
import org.etpipeline.core.Role
import org.etpipeline.core.SavedMessage
import org.etpipeline.core.Speed
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.TaskScore
import org.etpipeline.core.percentiles
import org.etpipeline.core.readManifest
import org.etpipeline.core.search.Chunk
import org.etpipeline.core.search.Hit
import org.etpipeline.demo.AppScaffold
import org.etpipeline.demo.Place
import org.etpipeline.demo.Startup
import org.etpipeline.demo.benchmark.BenchmarkActions
import org.etpipeline.demo.benchmark.BenchmarkContent
import org.etpipeline.demo.benchmark.BenchmarkState
import org.etpipeline.demo.bundleFolder
import org.etpipeline.demo.chat.ChatActions
import org.etpipeline.demo.chat.ChatContent
import org.etpipeline.demo.chat.ChatSettingsContent
import org.etpipeline.demo.chat.ChatState
import org.etpipeline.demo.chat.HistoryContent
import org.etpipeline.demo.chat.OwnSettings
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.models.Importing
import org.etpipeline.demo.models.Measured
import org.etpipeline.demo.models.ModelItem
import org.etpipeline.demo.models.ModelsActions
import org.etpipeline.demo.models.ModelsContent
import org.etpipeline.demo.models.ModelsState
import org.etpipeline.demo.notes.NoteSearchState
import org.etpipeline.demo.tasks.NoteActions
import org.etpipeline.demo.tasks.NoteContent
import org.etpipeline.demo.tasks.NotesActions
import org.etpipeline.demo.tasks.NotesContent
import org.etpipeline.demo.tasks.NotesState
import org.etpipeline.demo.tasks.ShareActions
import org.etpipeline.demo.tasks.ShareContent
import org.etpipeline.demo.tasks.TaskActions
import org.etpipeline.demo.tasks.TaskContent
import org.etpipeline.demo.tasks.TaskForm
import org.etpipeline.demo.tasks.TaskListContent
import org.etpipeline.demo.tasks.TaskRun
import org.etpipeline.demo.tasks.TasksState
import org.etpipeline.engine.KnownAdapter

/** A screen of the app in a state of which a picture is kept; perhaps on a hot phone. */
class SampleScreen(private val place: Place, private val isHot: Boolean, private val content: @Composable () -> Unit) {
    /** The screen among the app's places. */
    @Composable
    fun Content() = AppScaffold(place, onPlace = {}, isHot) { content() }
}

/** Every screen, by the name of its picture. The figures on them are made up: measured ones would differ each time. */
val sampleScreens: Map<String, SampleScreen> = buildMap {
    fun screen(place: Place, name: String, isHot: Boolean = false, content: @Composable () -> Unit) =
        put(name, SampleScreen(place, isHot, content))

    screen(Place.CHAT, "chat-welcome") { Chat(ready) }
    screen(Place.CHAT, "chat-no-model") { Chat(ChatState(startup = Startup.State(isDone = true))) }
    screen(Place.CHAT, "chat") { Chat(ready.copy(conversation = conversation(italy))) }
    screen(Place.CHAT, "chat-hot", isHot = true) { Chat(ready.copy(conversation = conversation(italy))) }
    screen(Place.CHAT, "chat-writing") {
        val coming = SavedMessage(Role.ASSISTANT, "The capital of", unfinished = true)
        val turns = italy + SavedMessage(Role.USER, "And of Spain?") + coming
        Chat(ready.copy(conversation = conversation(turns), phase = ChatState.Phase.WRITING, leftOut = 4))
    }
    screen(Place.CHAT, "chat-markdown") {
        val turns = listOf(
            SavedMessage(Role.USER, "How do I count **words** in Python?"),
            SavedMessage(Role.ASSISTANT, markdownAnswer, stats.copy(tokens = 118, end = "LENGTH"), thoughtMs = 2_400),
        )
        Chat(ready.copy(conversation = conversation(turns)))
    }
    screen(Place.CHAT, "chat-mixed") {
        val turns = listOf(
            SavedMessage(Role.USER, "كيف أطبع «Hello» في Python؟"),
            SavedMessage(Role.ASSISTANT, mixedAnswer, stats),
            SavedMessage(Role.USER, "And in one line?"),
            SavedMessage(Role.ASSISTANT, "Use `print(\"Hello\")`: it needs\n\n- no import,\n- no class.", stats),
        )
        Chat(ready.copy(conversation = conversation(turns)))
    }
    screen(Place.CHAT, "chat-settings") {
        val settings = ChatSettings("Be brief.", temperature = 0.7f)
        Surface { ChatSettingsContent(settings, OwnSettings(manifest), {}, battery = used) }
    }
    screen(Place.CHAT, "chat-settings-adapter") {
        val own = OwnSettings(manifest, adapters = adapters).copy(thinks = true, knowsOnlyTemperature = true)
        Surface { ChatSettingsContent(ChatSettings(adapter = "formal"), own, {}) }
    }
    screen(Place.CHAT, "chat-adapter") {
        val turns = italy.take(3) + italy.last().copy(text = "It is Rome, sir.", adapter = "formal")
        Chat(ready.copy(conversation = conversation(turns).copy(settings = ChatSettings(adapter = "formal"))))
    }
    screen(Place.CHAT, "chat-too-large") {
        val problem = Problem.NotEnoughMemory(6_000_000_000, 3_700_000_000, 1_200_000_000)
        val model = ModelHolder.State.Failed(stored(large), problem)
        Chat(ready.copy(model = model, conversation = conversation(italy.take(1)), problem = problem))
    }
    screen(Place.CHAT, "history") {
        val titles = listOf("What is the capital of Italy?", "Thank you!", "How much is 17 + 25? And what is left of it if I take away nine?")
        val chats = titles.mapIndexed { i, title -> Conversation("$i", "tiny", title, DAY - 10 * i * 3_600_000L, italy) }
        HistoryContent(chats, ChatActions(), onClose = {})
    }

    screen(Place.TASKS, "tasks") { TaskListContent(TasksState(tiny), {}, {}, {}) }
    screen(Place.TASKS, "smart-reply") {
        val answer = "Sure, I will bring the tent.\nSorry, I have no tent.\nShall I bring the umbrella, too?"
        Task("smart_reply", "Can you bring the tent to the beach?", answer)
    }
    screen(Place.TASKS, "translate") { Task("translate", "The train arrives at eight o'clock.", "Le train arrive à huit heures.") }
    screen(Place.TASKS, "symptom-check") {
        val answer = "Rest your ankle, cool it and raise the leg.\n\nSee a doctor if you cannot walk on it, or if it lasts more than a week."
        Task("symptom_check", "I have had a sprained ankle for two days.", answer)
    }
    screen(Place.TASKS, "share") { ShareContent("The train arrives at eight o'clock.", TasksState(tiny).tasks, ShareActions()) }
    screen(Place.TASKS, "notes") {
        NotesContent(NotesState(notes.take(2)), NotesActions())
    }
    screen(Place.TASKS, "notes-empty") { NotesContent(NotesState(emptyList()), NotesActions()) }
    screen(Place.TASKS, "notes-search") { Notes(NoteSearchState("doctor", isPossible = true, found = hits(2, 0))) }
    screen(Place.TASKS, "notes-no-embedder") { Notes(NoteSearchState("umbrella", isPossible = false)) }
    screen(Place.TASKS, "notes-indexing") {
        Notes(NoteSearchState("Who looks at my teeth?", isPossible = true, indexing = 24 to 200))
    }
    screen(Place.TASKS, "notes-answer") {
        val question = "When do I see the dentist?"
        val answer = "You see Dr. Weber on March 14 at 9:30 [1]. Bring the X-ray."
        val run = TaskRun("ask_notes", question, phase = TaskRun.Phase.DONE, answer = answer, stats = stats)
        Notes(NoteSearchState(question, isPossible = true, found = hits(2, 1), run = run, sources = hits(2, 1)))
    }
    screen(Place.TASKS, "note") {
        val text = "Priya went to the market. We needed nine pencils. All together they cost 80 euros."
        val run = TaskRun("summarize", text, phase = TaskRun.Phase.DONE, answer = "Priya bought nine pencils for 80 euros.", stats = stats)
        NoteContent(text, run, NoteActions(summarize = {}))
    }

    screen(Place.MODELS, "models") { ModelsContent(ModelsState(models), ModelsActions()) }
    screen(Place.MODELS, "models-embedding") {
        val measured = EmbeddingSpeed("Galaxy S24", 4, 64, spread(40.0), spread(9.0), 37_000_000, 60_000_000)
        val embedding = Embedding(384, pooling = "mean", normalised = true, maxTokens = 256, speed = listOf(measured))
        val agreement = EmbeddingAgreement(32, 0.999, 0.996, 0.02, 0.998)
        val minilm = manifest.copy(
            what = manifest.what.copy(task = Manifest.EMBEDDING, name = "minilm", parameters = 22_565_376),
            chatPart = null,
            embedding = embedding,
            memory = Memory(22_972_672, 0, 37_158_912, 60_131_584, 1_120_263_168),
            quality = Quality(embedding = EmbeddingComparison(agreement, agreement), gate = Gate(emptyMap(), emptyList(), true)),
        )
        val item = ModelItem(stored(minilm), totalRam = 3_700_000_000, fit = Fit.FITS, program = program.copy(maxContext = 256))
        ModelsContent(ModelsState(listOf(item)), ModelsActions())
    }
    screen(Place.MODELS, "models-adapters") {
        val adaptable = program.copy(adapterRank = 8, weights = listOf("xnnpack.ptd"))
        ModelsContent(ModelsState(listOf(models[0].copy(program = adaptable, adapters = adapters))), ModelsActions())
    }
    screen(Place.MODELS, "models-import") {
        val importing = Importing("qwen3-0.6b-8da4w-g32-xnnpack.zip", 310_000_000, 498_000_000)
        ModelsContent(ModelsState(models.take(1), importing), ModelsActions())
    }
    screen(Place.MODELS, "models-refused") {
        ModelsContent(ModelsState(models.take(1), problem = Problem.WrongHash("xnnpack.pte")), ModelsActions())
    }
    screen(Place.MODELS, "models-empty") { ModelsContent(ModelsState(emptyList()), ModelsActions()) }

    screen(Place.BENCHMARK, "benchmark") {
        val progress = BenchmarkState.Progress(2, 5, Phase.MEASURE)
        BenchmarkContent(BenchmarkState(tiny, progress = progress, isPlugged = true), BenchmarkActions())
    }
    screen(Place.BENCHMARK, "benchmark-report") {
        BenchmarkContent(BenchmarkState(tiny, report = report, isPlugged = false), BenchmarkActions())
    }
}

private val markdownAnswer = """
    <think>
    They want the words of a text.
    </think>

    ## Counting words

    Use a **Counter**; it does _all_ of this:

    1. split the text,
    2. count with `Counter`:
       - fast
       - short

    ```python
    from collections import Counter

    def count(text: str) -> Counter[str]:
        return Counter(text.lower().split())
    ```

    ### Then
    Look at the most
""".trimIndent()

/** Runs from right to left, but for the code and the names in it. */
private val mixedAnswer = """
    استخدم **print**؛ فهي دالة مضمّنة:

    1. افتح المحرر،
    2. اكتب `print`:

    ```python
    print("Hello")  # مرحبا
    ```
""".trimIndent()

@Composable
private fun Chat(state: ChatState) = ChatContent(state, ChatActions(), onHistory = {})

@Composable
private fun Task(key: String, text: String, answer: String) {
    val run = TaskRun(key, text, phase = TaskRun.Phase.DONE, answer = answer, stats = stats)
    TaskContent(key, TasksState(tiny).tasks.getValue(key), TaskForm(text), run, TaskActions())
}

@Composable
private fun Notes(search: NoteSearchState) = NotesContent(NotesState(notes), NotesActions(), search = search)

private val notes
    get() = listOf(
        Note("1", "Priya went to the market. We needed nine pencils. All together they cost 80 euros.", DAY),
        Note("2", "Bring the tent\nBring the umbrella", DAY - 86_400_000),
        Note("3", "Dentist\nAppointment with Dr. Weber on March 14 at 9:30, bring the X-ray.", DAY - 2 * 86_400_000),
        Note("4", "The doctor said: rest, ice, raise the leg.", DAY - 3 * 86_400_000),
    )

private fun hits(vararg places: Int) =
    places.map { notes[it] }.map { Hit(it.id, Chunk(0, it.text), 0.5f) }

private const val DAY = 1_700_000_000_000L // some noon in 2023

private fun spread(middle: Double) = Percentiles(middle * 0.9, middle, middle * 1.2)

private val speed = Speed(
    where = "Galaxy S24",
    threads = 4,
    promptTokens = 128,
    decodeTokens = 64,
    loadMs = spread(210.0),
    ttftMs = spread(340.0),
    prefillTokS = spread(376.0),
    decodeTokS = spread(41.3),
    programRssBytes = 560_000_000,
    peakRssBytes = 690_000_000,
)

/** Tasks, chat format and programs are those of the built-in bundle. */
private val manifest: Manifest = readManifest(File(bundleFolder, Manifest.FILE_NAME).readText()).let {
    it.copy(
        what = it.what.copy(name = "tiny_assistant", parameters = 1_967_808, licence = "apache-2.0"),
        files = it.files.mapValues { FileInfo(800_000, "0".repeat(64)) },
        memory = Memory(1_580_160, 1_048_576, 9_560_064, 11_140_224, 1_000_000_000),
        quality = Quality(tasks = mapOf("smart_reply" to TaskScore(100.0, 98.0, 50)), gate = Gate(emptyMap(), emptyList(), true)),
        speed = listOf(speed),
    )
}

private val large = manifest.copy(
    what = manifest.what.copy(name = "qwen3_4b", parameters = 4_022_468_096),
    memory = Memory(2_400_000_000, 300_000_000, 2_900_000_000, 3_100_000_000, 6_000_000_000),
    quality = Quality(
        tasks = mapOf("translate" to TaskScore(96.0, 71.0, 50)),
        gate = Gate(emptyMap(), listOf(Check("task translate", 25.0, 2.0, false)), false),
    ),
    speed = emptyList(),
)

private fun stored(manifest: Manifest, bytes: Long = manifest.memory.weightsBytes) =
    StoredBundle(manifest.what.name, File(manifest.what.name), manifest, null, bytes)

private val tiny = stored(manifest)
private val program = manifest.programs.first()

private val adapters = listOf(
    KnownAdapter("formal", File("formal.ptd"), 420_000, adapter("formal", "A formal tone", top1 = 0.986)),
    KnownAdapter("italian", File("italian.ptd"), 420_000, adapter("italian", "Italian travel phrases", top1 = 0.992)),
    KnownAdapter("my_own", File("my_own.ptd"), 420_000, said = null),
)

private fun adapter(name: String, about: String, top1: Double) = Adapter(
    name, "$name.ptd", program.file, 8, base = null, source = emptyMap(), about = about,
    quality = AdapterQuality(
        Agreement(200, 0.999, 0.99, 0.5, 0.004, top1),
        GreedyAgreement(8, 8, 90, 1.0),
        Gate(emptyMap(), emptyList(), true),
    ),
)

private val models = listOf(
    ModelItem(tiny, true, 3_700_000_000, Fit.FITS, program, measured = Measured(speed, here = true)),
    ModelItem(
        stored(large), false, 3_700_000_000, Fit.TOO_LARGE, program,
        refusal = Problem.NotEnoughMemory(6_000_000_000, 3_700_000_000, 1_200_000_000),
    ),
    ModelItem(
        StoredBundle("smollm2_360m", File("smollm2_360m"), null, Problem.MissingFile("xnnpack.pte"), 4_096), totalRam = 3_700_000_000,
        refusal = Problem.MissingFile("xnnpack.pte"),
    ),
)

private val stats = AnswerStats(24, 8, 42.0, 41.3, "MODEL")

private val italy = listOf(
    SavedMessage(Role.USER, "My name is Emma."),
    SavedMessage(Role.ASSISTANT, "Nice to meet you, Emma! 😊", stats.copy(tokens = 7)),
    SavedMessage(Role.USER, "What is the capital of Italy?"),
    SavedMessage(Role.ASSISTANT, "The capital of Italy is Rome.", stats),
)

private fun conversation(turns: List<SavedMessage>) = Conversation("sample", "tiny", turns.first().text, DAY, turns)

private val ready = ChatState(
    model = ModelHolder.State.Ready(tiny, program, 210),
    startup = Startup.State(isDone = true),
)

private val used = BatteryUse.Measured(mahPer1000Tokens = 2.4, joulesPerToken = 0.033)

private val report = listOf(43.0, 42.1, 41.3, 36.4, 33.0).let { rates ->
    BenchmarkReport(
        bundle = "tiny_assistant",
        file = program.file,
        sha256 = "0".repeat(64),
        speed = speed.copy(decodeTokS = percentiles(rates)),
        rounds = rates.map { BenchmarkRound(210.0, 128, 340.0, 376.0, 64, it, 690_000_000) },
        thermalBefore = "none",
        thermalAfter = "severe",
        batteryMahPer1000Tokens = used.mahPer1000Tokens,
    )
}
