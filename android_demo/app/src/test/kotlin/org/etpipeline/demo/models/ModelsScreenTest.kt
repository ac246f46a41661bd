package org.etpipeline.demo.models

import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import androidx.compose.ui.test.assertIsDisplayed
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
import org.etpipeline.core.BundleException
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.ZipSource
import org.etpipeline.core.readManifest
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
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
        val manifest = readManifest(TestBundle.whole.manifest)
        val other = manifest.speed.single()
        val here = other.copy(where = "test phone")
        assertEquals(Measured(other, here = false), manifest.speedFor("Test Phone"))
        assertEquals(Measured(here, here = true), manifest.copy(speed = listOf(other, here)).speedFor("Test Phone"))
        assertNull(manifest.copy(speed = emptyList()).speedFor("Test Phone"))
    }

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
