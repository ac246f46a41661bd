package org.etpipeline.demo.models

import androidx.compose.ui.test.hasAnyAncestor
import androidx.compose.ui.test.hasTestTag
import androidx.compose.ui.test.hasText
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onNodeWithTag
import androidx.test.core.app.ApplicationProvider
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import kotlin.reflect.KClass
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleSource
import org.etpipeline.core.BundleStore
import org.etpipeline.core.EngineException
import org.etpipeline.core.FolderSource
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.ZipSource
import org.etpipeline.demo.Services
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.waitFor
import org.etpipeline.demo.tasks.TaskViewModel
import org.etpipeline.demo.tasks.TasksScreen
import org.etpipeline.demo.text
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Whatever is wrong with a bundle: the user reads one sentence about it, and the phone is as it was before. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class)
class BadBundlesTest {
    @get:Rule val rule = createEmptyComposeRule()

    @get:Rule val disk = TemporaryFolder()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val good get() = TestBundle.whole
    private lateinit var root: File
    private var free = Long.MAX_VALUE

    @Before
    fun makeFolder() {
        app.startEmpty()
        root = disk.newFolder("bundles")
    }

    @Test
    fun `a wrong manifest is refused`() = refused(
        "newer" to (good.edited("version", "99").source() to Problem.NewerManifest("99", Manifest.VERSION)),
        "of a model that embeds texts, and does not say how" to
            (good.edited("what.task", "\"embedding\"").source() to Problem.BadManifest::class),
        "no JSON" to (manifest("{\"format\": ") to Problem.BadManifest::class),
        "empty" to (manifest("") to Problem.BadManifest::class),
        "a list" to (manifest("[]") to Problem.BadManifest::class),
        "no UTF-8" to (good.with(Manifest.FILE_NAME, byteArrayOf(-1, -2, 0)).source() to Problem.BadManifest::class),
        "nested a million times" to (manifest("[".repeat(1_000_000)) to Problem.BadManifest::class),
        "huge" to (manifest(good.manifest + " ".repeat(17 shl 20)) to Problem.BadManifest::class),
        "another format" to (good.edited("format", "\"gguf\"").source() to Problem.BadManifest::class),
        "an unknown field" to (good.edited("memory.extra", "1").source() to Problem.BadManifest::class),
        "a missing field" to (good.edited("memory.peak_bytes", null).source() to Problem.BadManifest::class),
        "a number in quotes" to (good.edited("memory.peak_bytes", "\"7\"").source() to Problem.BadManifest::class),
        "a number below zero" to (good.edited("memory.peak_bytes", "-7").source() to Problem.BadManifest::class),
        "a gate that contradicts its checks" to
            (good.edited("quality.gate.passed", "false").source() to Problem.BadManifest::class),
        "a way of calling that nobody knows" to
            (good.edited("programs.0.signature", "\"tokens_image\"").source() to Problem.BadManifest::class),
        "a program's own memory, below zero" to
            (good.edited("programs.0.memory", ownMemory(-7)).source() to Problem.BadManifest::class),
        "no programs" to (good.edited("programs", "[]").source() to Problem.BadManifest::class),
        "a program that is not listed" to
            (good.edited("programs.0.file", "\"other.pte\"").source() to Problem.BadManifest::class),
        "a path that leaves the bundle" to (
            good.edited("files", """{"../a": {"size": 1, "sha256": "${"0".repeat(64)}"}}""").source() to
                Problem.UnsafePath("../a")
            ),
        "none" to (good.without(Manifest.FILE_NAME).source() to Problem.NoManifest),
        "in a subfolder" to (zipSource(inSubfolder()) to Problem.NoManifest),
    )

    @Test
    fun `wrong files are refused`() {
        val program = good.files.getValue(PROGRAM)
        val size = program.size.toLong()
        refused(
            "no program" to (good.without(PROGRAM).source() to Problem.MissingFile(PROGRAM)),
            "no tokenizer" to (good.without(TOKENIZER).source() to Problem.MissingFile(TOKENIZER)),
            "one bit of the program" to (good.with(PROGRAM, flipped(program)).source() to Problem.WrongHash(PROGRAM)),
            "one bit, the manifest at the end" to (
                zipSource(good.with(PROGRAM, flipped(program)).zipped(listOf(PROGRAM, TOKENIZER, Manifest.FILE_NAME))) to
                    Problem.WrongHash(PROGRAM)
                ),
            "one byte too many" to
                (good.with(PROGRAM, program + 0).source() to Problem.WrongSize(PROGRAM, size + 1, size)),
            "one byte too few" to
                (good.with(PROGRAM, program.copyOf(program.size - 1)).source() to Problem.WrongSize(PROGRAM, size - 1, size)),
            "an empty program" to (good.with(PROGRAM, ByteArray(0)).source() to Problem.WrongSize(PROGRAM, 0, size)),
            "one more file" to (good.with("readme.txt", ByteArray(3)).source() to Problem.UnexpectedFile("readme.txt")),
            "above the folder" to (named("../evil.pte") to Problem.UnsafePath::class),
            "an absolute path" to (named("/sdcard/evil.pte") to Problem.UnsafePath::class),
            "a path for Windows" to (named("..\\evil.pte") to Problem.UnsafePath::class),
            "twice" to (zipSource(twice()) to Problem.DuplicateFile(TOKENIZER)),
            "too many" to (TestBundle.of(*Array(1100) { "$it" to ByteArray(1) }).source() to Problem.ZipBomb::class),
        )
    }

    @Test
    fun `a wrong zip is refused`() {
        val zip = good.zipped()
        val bomb = ByteArray(70 shl 20)
        refused(
            "half of it" to (zipSource(zip.copyOf(zip.size / 2)) to Problem.DamagedZip),
            "without its end" to (zipSource(zip.copyOf(zip.size - 40)) to Problem.DamagedZip),
            "garbage" to (zipSource(ByteArray(10_000) { (it * 31).toByte() }) to Problem.DamagedZip),
            "empty" to (zipSource(ByteArray(0)) to Problem.DamagedZip),
            "a password" to (zipSource(encrypted(zip)) to Problem.EncryptedZip("bundle.zip")),
            "a bomb" to (TestBundle.of(PROGRAM to bomb).source() to Problem.ZipBomb(PROGRAM)),
            "a bomb behind a manifest" to (good.with(PROGRAM, bomb).source() to Problem.WrongSize::class),
        )
    }

    @Test
    fun `a source that fails leaves nothing`() = refused(
        "while it is opened" to (broken { throw IOException("the card was pulled") } to Problem.Storage("the card was pulled")),
        "while it is read" to (failing(200_000) to Problem.Storage("read error")),
        "its app takes it back" to (broken { throw SecurityException("no longer yours") } to Problem.Storage("no longer yours")),
        "its app crashes" to (broken { error("null cursor") } to Problem.Storage("null cursor")),
    )

    @Test
    fun `a wrong folder is refused`() {
        val program = File(good.writeTo(disk.newFolder("linked")), PROGRAM)
        Files.move(program.toPath(), disk.root.toPath().resolve("elsewhere.pte"))
        Files.createSymbolicLink(program.toPath(), disk.root.toPath().resolve("elsewhere.pte"))
        refused(
            "without a manifest" to (FolderSource(disk.newFolder("photos")) to Problem.NoManifest),
            "without a program" to
                (FolderSource(good.without(PROGRAM).writeTo(disk.newFolder("half"))) to Problem.MissingFile(PROGRAM)),
            "with a link" to (FolderSource(disk.root.resolve("linked")) to Problem.UnsafePath(PROGRAM)),
        )
    }

    @Test
    fun `a full disk is refused before it is full`() {
        free = 33L shl 20
        refused("at once" to (good.source() to Problem.NotEnoughSpace::class))
        val unknown = good.zipped().let { bytes -> ZipSource("bundle.zip", null) { bytes.inputStream() } }
        refused("when the manifest has come" to (unknown to Problem.NotEnoughSpace::class))
    }

    @Test
    fun `a disk that cannot be written to is said`() {
        root = File(disk.newFile("a file"), "bundles")
        refused("no folder can be made" to (good.source() to Problem.Storage::class))
    }

    @Test
    fun `what is wrong for this phone is imported, explained and can be deleted`() = unusable(
        good.edited("memory.min_device_ram_bytes", "64000000000") to
            Problem.NotEnoughMemory(64_000_000_000, app.phone.totalRam, app.phone.freeRam),
        good.edited("memory.peak_bytes", "7000000000") to
            Problem.NotEnoughMemory(7_000_000_000, app.phone.totalRam, app.phone.freeRam),
        good.edited("programs.0.memory", ownMemory(6_500_000_000)) to
            Problem.NotEnoughMemory(6_500_000_000, app.phone.totalRam, app.phone.freeRam),
        good.edited("programs.0.signature", "\"tokens_cache\"") to
            Problem.OtherSignature(listOf(PROGRAM), listOf("tokens_cache")),
        good.edited("programs.0.qairt", "\"v2.49.40\"") to Problem.QairtTooOld("v2.49.40", null),
        good.edited("programs.0.backend", "\"qnn\"") to Problem.NoProgram(listOf("qnn"), emptyList(), app.phone.name),
        good.edited("programs.0.soc", "[\"SM8650\"]") to
            Problem.NoProgram(listOf("xnnpack"), listOf("SM8650"), app.phone.name),
        good.edited("programs.0.min_runtime", "\"99.0.0\"") to
            Problem.RuntimeTooOld("99.0.0", app.phone.facts.runtime),
    )

    /** These pass every check of the import: only the runtime can tell. */
    @Test
    fun `what the runtime refuses is said in the task and can be deleted`() {
        val program = good.files.getValue(PROGRAM)
        val cases = mapOf(
            "garbage tokenizer" to (good.consistent(TOKENIZER, "garbage".encodeToByteArray()) to Problem.BadTokenizer::class),
            "empty tokenizer" to (good.consistent(TOKENIZER, ByteArray(0)) to Problem.BadTokenizer::class),
            "garbage program" to
                (good.consistent(PROGRAM, ByteArray(100_000) { (it * 31).toByte() }) to Problem.BadProgram::class),
            "half a program" to (good.consistent(PROGRAM, program.copyOf(program.size / 2)) to Problem.BadProgram::class),
            "empty program" to (good.consistent(PROGRAM, ByteArray(0)) to Problem.BadProgram::class),
            "a zip as program" to (good.consistent(PROGRAM, good.zipped()) to Problem.BadProgram::class),
        )
        val services = services(realEngine = true)
        val models = ModelsViewModel(services)
        val tasks = TaskViewModel(services)
        showScreen { TasksScreen("a text", {}, {}, {}, tasks = tasks) }
        rule.waitFor { models.state.value.models != null }
        for ((name, case) in cases) {
            val (bundle, expected) = case
            models.import { bundle.source() }
            rule.waitFor { models.state.value.imported != null }
            rule.waitFor { tasks.state.value.bundle != null }
            tasks.run("summarize", "a text")
            rule.waitFor { tasks.state.value.run?.isRunning == false }
            val problem = tasks.state.value.run?.problem
            assertEquals(name, expected, problem?.let { it::class })
            val failed = services.models.state.value as ModelHolder.State.Failed
            assertEquals(name, problem, failed.problem)
            models.delete(models.state.value.models.orEmpty().single())
            rule.waitFor { models.state.value.models?.isEmpty() == true && listing().isEmpty() }
        }
    }

    /** Imports each through the screen's own model and looks at the screen and at the disk. */
    private fun refused(vararg cases: Pair<String, Pair<BundleSource, Any>>) {
        val viewModel = ModelsViewModel(services())
        showScreen { ModelsScreen(viewModel = viewModel) }
        rule.waitFor { viewModel.state.value.models != null }
        val before = listing()
        for ((name, case) in cases) {
            val (source, expected) = case
            viewModel.import { source }
            rule.waitFor { viewModel.state.value.importing == null }
            val problem = viewModel.state.value.problem
            assertNotNull("$name was taken", problem)
            assertEquals(name, expected, if (expected is KClass<*>) problem!!::class else problem)
            rule.onNode(hasText(problem!!.text(app.resources)) and hasAnyAncestor(hasTestTag("problem"))).assertExists(name)
            assertEquals(name, before, listing())
            viewModel.dismiss()
            rule.waitFor { rule.onAllNodesWithTag("problem").fetchSemanticsNodes().isEmpty() }
        }
    }

    private fun unusable(vararg cases: Pair<TestBundle, Problem>) {
        val services = services()
        val viewModel = ModelsViewModel(services)
        showScreen { ModelsScreen(viewModel = viewModel) }
        for ((bundle, expected) in cases) {
            viewModel.import { bundle.source() }
            rule.waitFor { viewModel.state.value.imported != null }
            val item = viewModel.state.value.models!!.single()
            assertEquals(expected, item.refusal)
            viewModel.select(item)
            rule.waitFor { rule.onAllNodesWithTag("problem").fetchSemanticsNodes().isNotEmpty() }
            val sentence = hasText(expected.text(app.resources))
            rule.onNode(sentence and hasAnyAncestor(hasTestTag("problem"))).assertExists()
            assertEquals(expected, runBlocking { problemOf { services.models.use {} } })
            assertTrue(app.engine.prompts.isEmpty())
            viewModel.delete(item)
            rule.waitFor { viewModel.state.value.models?.isEmpty() == true }
            assertEquals(emptyList<String>(), listing())
            viewModel.dismiss()
        }
        rule.onNodeWithTag("problem").assertDoesNotExist()
    }

    private suspend fun problemOf(block: suspend () -> Unit): Problem? = try {
        block()
        null
    } catch (error: BundleException) {
        error.problem
    } catch (error: EngineException) {
        error.problem
    }

    private fun services(realEngine: Boolean = false): Services {
        val store = BundleStore(root) { free }
        val old = app.services
        val preferences = app.getSharedPreferences("bad bundles", 0)
        val slots = disk.root.resolve("slots")
        val models = if (realEngine) {
            ModelHolder(store, old.phone, preferences, slots)
        } else {
            ModelHolder(store, old.phone, preferences, slots) { _, _ -> app.engine }
        }
        return Services(
            store, old.conversations, old.notes, old.phone, preferences, models, old.adapters, old.startup,
            old.embedders, old.search,
        )
    }

    private fun listing(): List<String> = disk.root.resolve("bundles").walk().map { it.path }.sorted().toList().drop(1)

    private fun manifest(text: String) = good.with(Manifest.FILE_NAME, text.encodeToByteArray()).source()

    private fun ownMemory(peak: Long) = """{"weights_bytes": 1, "kv_cache_bytes": 1, "resident_bytes": 1, "peak_bytes": $peak,
        "min_device_ram_bytes": 1}"""

    private fun named(name: String) = TestBundle.of(name to ByteArray(3)).source()

    private fun inSubfolder(): ByteArray =
        TestBundle.of(*good.files.map { (name, content) -> "bundle/$name" to content }.toTypedArray()).zipped()

    private fun flipped(content: ByteArray) = content.copyOf().also { it[it.size / 2] = (it[it.size / 2].toInt() xor 1).toByte() }

    /** Java writes no name twice, so another name of the same length is overwritten. */
    private fun twice(): ByteArray {
        val other = TOKENIZER.dropLast(1) + "X"
        val zip = good.with(other, good.files.getValue(TOKENIZER)).zipped().toString(Charsets.ISO_8859_1)
        return zip.replace(other, TOKENIZER).toByteArray(Charsets.ISO_8859_1)
    }

    /** Sets the bit that says "encrypted" in the header of the first file. */
    private fun encrypted(zip: ByteArray) = zip.copyOf().also { it[6] = (it[6].toInt() or 1).toByte() }

    private fun broken(open: () -> InputStream) = object : BundleSource {
        override val name = "broken"
        override val totalBytes: Long? = null

        override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) = visit("a", open())
    }

    private fun failing(after: Int): BundleSource {
        val bytes = good.zipped()
        return ZipSource("bundle.zip", bytes.size.toLong()) {
            object : FilterInputStream(bytes.inputStream()) {
                private var left = after

                override fun read(b: ByteArray, off: Int, len: Int): Int {
                    if (left <= 0) throw IOException("read error")
                    return super.read(b, off, minOf(len, left)).also { left -= it }
                }
            }
        }
    }
}
