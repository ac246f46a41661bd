package org.etpipeline.demo.models

import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import androidx.compose.ui.test.assert
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.hasText
import androidx.compose.ui.test.junit4.v2.createEmptyComposeRule
import androidx.compose.ui.test.onAllNodesWithTag
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onFirst
import androidx.compose.ui.test.onNodeWithTag
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performScrollTo
import androidx.test.core.app.ApplicationProvider
import java.io.ByteArrayInputStream
import java.io.File
import java.io.FilterInputStream
import java.util.concurrent.Semaphore
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.etpipeline.core.BundleException
import org.etpipeline.core.Fit
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Speed
import org.etpipeline.core.ZipSource
import org.etpipeline.core.readManifest
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.fileSize
import org.etpipeline.demo.installEmbedder
import org.etpipeline.demo.show
import org.etpipeline.demo.showScreen
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.waitFor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

private const val NPU_PROGRAM = "qnn-v75.pte"

@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [35], application = TestApp::class, qualifiers = "w411dp-h891dp-420dpi")
class ModelsScreenTest {
    @get:Rule val rule = createEmptyComposeRule()

    @get:Rule val disk = TemporaryFolder()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val viewModel by lazy { ModelsViewModel(app.services) }
    private val state get() = viewModel.state.value

    @Before
    fun startEmpty() = app.startEmpty()

    @Test
    fun `an imported model is first, selected and can be deleted`() {
        show()
        text(R.string.models_empty_title).assertIsDisplayed()
        viewModel.import { TestBundle.whole.source() }
        rule.waitFor { state.imported != null }
        val item = state.models!!.single()
        assertTrue(item.selected)
        assertNull(item.refusal)
        rule.onAllNodesWithText(item.name).onFirst().assertIsDisplayed()
        text(R.string.models_gate_passed).performScrollTo().assertIsDisplayed()

        text(R.string.models_delete).performScrollTo().performClick()
        rule.onNodeWithTag("confirm-delete").performClick()
        rule.waitFor { state.models?.isEmpty() == true }
        assertNull(app.services.models.bundle)
        text(R.string.models_empty_title).assertIsDisplayed()
    }

    @Test
    fun `a model that embeds is there for the notes, and not to be selected`() {
        val embedder = app.installEmbedder()
        app.services.models.refresh()
        assertNull(app.services.models.bundle)
        show()
        rule.waitFor { state.models?.size == 1 }
        text(R.string.models_embeds).assertIsDisplayed()
        text(R.string.models_use).assertDoesNotExist()
        app.services.models.select(embedder.id)
        assertNull(app.services.models.bundle)
        import(TestBundle.whole)
        rule.waitFor { state.models?.size == 2 }
        val selected = app.services.models.bundle?.folder?.resolve(Manifest.FILE_NAME)
        assertEquals(TestBundle.whole.manifest, selected?.readText())
    }

    @Test
    fun `a second model is selected where its import ends`() {
        import(TestBundle.whole)
        val second = TestBundle.whole.edited("what.name", "\"another\"")
        show()
        viewModel.import { second.source() }
        rule.waitFor { state.imported?.name == "another" }
        assertEquals(listOf(false, true), state.models!!.map { it.selected })
        rule.onAllNodesWithText(app.getString(R.string.models_use)).onFirst().performClick()
        rule.waitFor { state.models!!.first().selected }
        assertEquals("another", app.services.models.bundle?.manifest?.what?.name)
        rule.onNodeWithTag("imported").assertDoesNotExist()
    }

    @Test
    fun `an import shows how far it is, survives rotation and can be cancelled`() {
        val gate = Semaphore(0)
        val activity = show()
        viewModel.import { gated(gate) }
        gate.release(3)
        rule.waitFor { (state.importing?.done ?: 0) > 0 }
        rule.onNodeWithTag("importing").assertIsDisplayed()
        activity.recreate()
        activity.get().show { ModelsScreen(viewModel = viewModel) }
        rule.onNodeWithTag("importing").assertIsDisplayed()
        text(R.string.models_cancel).performClick()
        gate.release(1_000)
        rule.waitFor { state.importing == null }
        rule.waitFor { File(app.filesDir, "bundles").list().isNullOrEmpty() }
        assertNull(state.problem)
        assertEquals(emptyList<ModelItem>(), state.models)
    }

    @Test
    fun `a folder is read through the system's picker, subfolders too`() {
        val bundle = TestBundle.whole.run {
            val moved = edited("programs.0.file", "\"model/$PROGRAM\"")
            val files = moved.manifest.replace("\"$PROGRAM\":{", "\"model/$PROGRAM\":{")
            moved.without(PROGRAM).with("model/$PROGRAM", this.files.getValue(PROGRAM))
                .with(Manifest.FILE_NAME, files.encodeToByteArray())
        }
        show()
        viewModel.import { treeSource(app.contentResolver, provide(bundle.writeTo(disk.newFolder("picked")))) }
        rule.waitFor { state.importing == null && (state.imported != null || state.problem != null) }
        assertNull(state.problem)
        assertEquals(bundle.files.keys, state.imported!!.bundle.let { stored ->
            stored.folder.walk().filter { it.isFile }.map { it.relativeTo(stored.folder).invariantSeparatorsPath }.toSet()
        })
    }

    @Test
    fun `a folder without a manifest is not searched`() {
        val folder = disk.newFolder("photos")
        File(folder, "2024").mkdirs()
        val error = assertThrows(BundleException::class.java) { treeSource(app.contentResolver, provide(folder)) }
        assertEquals(Problem.NoManifest, error.problem)
        assertEquals(1, FolderProvider.listed)
    }

    @Test
    fun `the speed of this phone is preferred`() {
        val other = readManifest(TestBundle.whole.manifest).speed.single()
        val here = other.copy(where = "test phone")
        assertEquals(Measured(other, here = false), listOf(other).on("Test Phone"))
        assertEquals(Measured(here, here = true), listOf(other, here).on("Test Phone"))
        assertNull(emptyList<Speed>().on("Test Phone"))
    }

    @Test
    fun `of several programs the one for this phone is marked, and its figures are shown`() {
        val npu = app.phone.facts.run { copy(soc = "SM8650", backends = backends + "qnn", qairt = "v2.49.40") }
        import(twoPrograms())
        val first = show()
        val cpu = state.models!!.single()
        assertEquals("xnnpack" to Fit.FITS, cpu.program!!.backend to cpu.fit)
        assertTrue(cpu.measured != null)
        text(R.string.models_gate_passed).performScrollTo().assertIsDisplayed()
        text(R.string.models_speed_unknown).assertDoesNotExist()
        assertChosen(PROGRAM, not = NPU_PROGRAM)
        first.close()

        app.phone.facts = npu
        app.services.models.refresh()
        val again = ModelsViewModel(app.services)
        showScreen { ModelsScreen(viewModel = again) }
        rule.waitFor { again.state.value.models != null }
        val item = again.state.value.models!!.single()
        assertEquals("qnn" to Fit.TIGHT, item.program!!.backend to item.fit)
        assertNull("the speed is that of the other program", item.measured)
        val memory = listOf(6_000_000_000, app.phone.totalRam).map { app.resources.fileSize(it) }
        rule.onNodeWithText(app.getString(R.string.models_memory_of, memory[0], memory[1])).performScrollTo().assertIsDisplayed()
        text(R.string.models_fit_tight).performScrollTo().assertIsDisplayed()
        text(R.string.models_gate_failed).performScrollTo().assertIsDisplayed()
        text(R.string.models_speed_unknown).performScrollTo().assertIsDisplayed()
        assertChosen(NPU_PROGRAM, not = PROGRAM)
        text(R.string.models_checks_failed).performScrollTo().assertIsDisplayed()
        runBlocking { app.services.models.use {} }
        assertEquals(item.program, (app.services.models.state.value as ModelHolder.State.Ready).program)
    }

    /** In the details each program is one node, with all that a screen reader says of it. */
    private fun assertChosen(file: String, not: String) {
        text(R.string.models_details).performScrollTo().performClick()
        val chosen = hasText(app.getString(R.string.models_program_chosen))
        rule.onNodeWithTag("program-$file").performScrollTo().assert(chosen)
        rule.onNodeWithTag("program-$not").performScrollTo().assert(!chosen)
        val npu = rule.onNodeWithTag("program-$NPU_PROGRAM")
        npu.assert(hasText(app.getString(R.string.models_program_chips, "SM8650"), substring = true))
        npu.assert(hasText(app.getString(R.string.models_program_hexagon, "V75"), substring = true))
        npu.assert(hasText(app.getString(R.string.models_program_qairt, "v2.49.40"), substring = true))
        npu.assert(hasText(app.getString(R.string.models_program_not_executed), substring = true))
    }

    /** The tests' bundle with a program for an NPU: large, bad, and first. */
    private fun twoPrograms(): TestBundle {
        val one = TestBundle.whole
        val cpu = Json.parseToJsonElement(one.manifest).jsonObject.getValue("programs").jsonArray.single()
        val npu = """{"file": "$NPU_PROGRAM", "backend": "qnn", "recipe": "16a4w", "soc": ["SM8650"], "hexagon": "V75",
            "methods": ["forward"], "max_context": 512, "prefill_chunk": 1, "min_runtime": "1.3.0", "qairt": "v2.49.40",
            "executed": false, "delegates": 1,
            "memory": {"weights_bytes": 1, "kv_cache_bytes": 1, "resident_bytes": 1, "peak_bytes": 6000000000,
                "min_device_ram_bytes": 1},
            "quality": {"gate": {"thresholds": {}, "passed": false,
                "checks": [{"name": "drop", "value": 9.0, "threshold": 1.0, "passed": false}]}}}"""
        return one.edited("programs", "[$npu, $cpu]")
            .edited("files", """{"$NPU_PROGRAM": {"size": 0, "sha256": ""}, ${files(one)}""")
            .consistent(NPU_PROGRAM, ByteArray(9))
    }

    private fun files(bundle: TestBundle) =
        Json.parseToJsonElement(bundle.manifest).jsonObject.getValue("files").toString().drop(1)

    private fun show() = showScreen { ModelsScreen(viewModel = viewModel) }.also {
        rule.waitFor { state.models != null }
    }

    private fun text(id: Int) = rule.onNodeWithText(app.getString(id))

    private fun import(bundle: TestBundle) {
        app.services.store.import(bundle.source())
        app.services.models.refresh()
    }

    /** Gives one block for each permit. */
    private fun gated(gate: Semaphore): ZipSource {
        val bytes = TestBundle.whole.zipped()
        return ZipSource("slow.zip", bytes.size.toLong()) {
            object : FilterInputStream(ByteArrayInputStream(bytes)) {
                override fun read(into: ByteArray, offset: Int, length: Int): Int {
                    gate.acquire()
                    return super.read(into, offset, minOf(length, 8_192))
                }
            }
        }
    }

    private fun provide(folder: File): Uri {
        FolderProvider.root = folder
        FolderProvider.listed = 0
        Robolectric.setupContentProvider(FolderProvider::class.java, FolderProvider.AUTHORITY)
        return DocumentsContract.buildTreeDocumentUri(FolderProvider.AUTHORITY, FolderProvider.ROOT_ID)
    }

    /** A folder as the system's picker hands it out. Document ids are paths behind a name for the root. */
    class FolderProvider : ContentProvider() {
        override fun query(
            uri: Uri,
            projection: Array<out String>?,
            selection: String?,
            selectionArgs: Array<out String>?,
            sortOrder: String?,
        ): Cursor {
            val columns = checkNotNull(projection)
            val folder = file(uri)
            val isChildren = uri.lastPathSegment == "children"
            if (isChildren) listed++
            return MatrixCursor(columns).apply {
                for (file in if (isChildren) folder.listFiles().orEmpty().sorted() else listOf(folder)) {
                    addRow(columns.map { value(file, it) })
                }
            }
        }

        private fun value(file: File, column: String): Any? = when (column) {
            Document.COLUMN_DOCUMENT_ID -> "$ROOT_ID${file.relativeTo(root).path}"
            Document.COLUMN_DISPLAY_NAME -> file.name
            Document.COLUMN_MIME_TYPE -> if (file.isDirectory) Document.MIME_TYPE_DIR else "application/octet-stream"
            Document.COLUMN_SIZE -> if (file.isDirectory) null else file.length()
            else -> null
        }

        override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor = ParcelFileDescriptor.open(file(uri), ParcelFileDescriptor.MODE_READ_ONLY)

        private fun file(uri: Uri) = File(root, DocumentsContract.getDocumentId(uri).removePrefix(ROOT_ID))

        override fun onCreate() = true

        override fun getType(uri: Uri): String? = null

        override fun insert(uri: Uri, values: ContentValues?): Uri? = null

        override fun delete(uri: Uri, selection: String?, selectionArgs: Array<out String>?) = 0

        override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<out String>?) = 0

        companion object {
            const val AUTHORITY = "org.etpipeline.demo.test.documents"
            const val ROOT_ID = "primary:"
            var root = File("")
            var listed = 0
        }
    }
}
