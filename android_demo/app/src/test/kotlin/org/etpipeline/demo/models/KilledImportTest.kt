package org.etpipeline.demo.models

import androidx.test.core.app.ApplicationProvider
import java.io.File
import java.io.FilterInputStream
import java.io.InputStream
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BundleSource
import org.etpipeline.core.BundleStore
import org.etpipeline.demo.Startup
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.startEmpty
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

/** A killed app leaves on disk what was there at that moment: it is copied away in the middle and started from. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
class KilledImportTest {
    @get:Rule val disk = TemporaryFolder()

    private val app: TestApp = ApplicationProvider.getApplicationContext()

    /** The model that comes with the app is in place: it is not copied again. */
    @Before
    fun startEmpty() = app.startEmpty()

    @Test
    fun `a kill in the middle of an import leaves nothing after the next start`() {
        val root = disk.newFolder("bundles")
        val moments = mutableListOf<File>()
        val source = Watched(TestBundle.whole.source()) {
            moments += File(disk.root, "moment${moments.size}").also { root.copyRecursively(it) }
        }
        val whole = BundleStore(root).import(source)
        assertEquals(TestBundle.whole.files.size * 2, moments.size)
        assertTrue(moments.count { moment -> moment.walk().any { it.isFile } } > TestBundle.whole.files.size)
        for (moment in moments) {
            start(moment)
            assertEquals(emptyList<String>(), moment.list().orEmpty().toList())
        }
        assertEquals(listOf(whole.id), BundleStore(root).list().map { it.id })
    }

    @Test
    fun `a whole bundle stays when another import was killed`() {
        val root = disk.newFolder("bundles")
        val whole = BundleStore(root).import(TestBundle.whole.source())
        File(root, ".importing-1234").mkdirs()
        File(root, ".importing-1234/$PROGRAM").writeBytes(ByteArray(1000))
        File(root, ".deleting-1234").mkdirs()
        File(root, ".deleting-1234/$PROGRAM").writeBytes(ByteArray(1000))
        val models = start(root)
        assertEquals(whole.id, models.bundle?.id)
        assertEquals(listOf(whole.id), root.list().orEmpty().toList())
    }

    private fun start(root: File): ModelHolder {
        val store = BundleStore(root)
        val (preferences, slots) = app.getSharedPreferences(root.name, 0) to File(app.filesDir, "slots")
        val models = ModelHolder(store, app.phone, preferences, slots) { _, _ -> app.engine }
        runBlocking { Startup(app, store, models, app.services.preferences).run() }
        return models
    }

    /** Calls [look] after the first block of each file, and at its end. */
    private class Watched(private val source: BundleSource, private val look: () -> Unit) : BundleSource by source {
        override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) = source.forEachFile { name, content ->
            var reads = 0
            visit(
                name,
                object : FilterInputStream(content) {
                    override fun read(into: ByteArray, offset: Int, length: Int): Int {
                        if (reads++ == 1) look()
                        return super.read(into, offset, length)
                    }
                },
            )
            look()
        }
    }
}
