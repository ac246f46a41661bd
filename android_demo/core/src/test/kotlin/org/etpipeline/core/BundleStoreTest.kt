package org.etpipeline.core

import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.zip.CRC32
import java.util.zip.ZipEntry
import java.util.zip.ZipException
import java.util.zip.ZipOutputStream
import kotlin.random.Random
import kotlinx.coroutines.CancellationException
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

private const val MANIFEST = "manifest.json"
private const val PROGRAM = "model/xnnpack.pte"

class BundleStoreTest {
    @get:Rule
    val temporary = TemporaryFolder()
    private val root by lazy { temporary.newFolder("bundles") }
    private val store by lazy { BundleStore(root) }

    private val good: List<Pair<String, ByteArray>> =
        listOf(MANIFEST to sampleManifest().toByteArray()) + SAMPLE_FILES.toList()

    private fun with(vararg files: Pair<String, ByteArray>): List<Pair<String, ByteArray>> =
        good.filter { (name, _) -> files.none { it.first == name } } + files

    private fun without(name: String) = good.filter { it.first != name }

    // --- ways to give files

    /** As `et-bundle zip` makes it: nothing compressed. */
    private fun zip(files: List<Pair<String, ByteArray>>, compressed: Boolean = false): ByteArray {
        val out = ByteArrayOutputStream()
        ZipOutputStream(out).use { zip ->
            for ((name, content) in files) {
                val entry = ZipEntry(name)
                if (!compressed) {
                    entry.method = ZipEntry.STORED
                    entry.size = content.size.toLong()
                    entry.crc = CRC32().apply { update(content) }.value
                }
                zip.putNextEntry(entry)
                zip.write(content)
                zip.closeEntry()
            }
        }
        return out.toByteArray()
    }

    private fun zipSource(bytes: ByteArray) =
        ZipSource("bundle.zip", bytes.size.toLong()) { ByteArrayInputStream(bytes) }

    private fun source(files: List<Pair<String, ByteArray>>, total: Long? = null) = object : BundleSource {
        override val name = "test"
        override val totalBytes = total
        override fun forEachFile(visit: (String, InputStream) -> Unit) =
            files.forEach { (name, content) -> visit(name, ByteArrayInputStream(content)) }
    }

    private fun folder(files: List<Pair<String, ByteArray>>): File {
        val folder = Files.createTempDirectory(temporary.root.toPath(), "source").toFile()
        for ((name, content) in files) File(folder, name).apply { parentFile!!.mkdirs() }.writeBytes(content)
        return folder
    }

    /** Every way to give these files. */
    private fun sources(files: List<Pair<String, ByteArray>>): List<BundleSource> {
        val reversed = files.reversed()
        return listOf(
            zipSource(zip(files)), zipSource(zip(reversed)), zipSource(zip(files, compressed = true)),
            source(files), source(reversed),
        )
    }

    private fun assertRefused(source: BundleSource, store: BundleStore = this.store, expected: (Problem) -> Boolean) {
        val before = root.list().orEmpty().toSet()
        val problem = assertThrows(BundleException::class.java) { store.import(source) }.problem
        assertTrue("$problem", expected(problem))
        assertEquals("nothing stays behind", before, root.list().orEmpty().toSet())
    }

    private fun assertRefused(source: BundleSource, expected: Problem) = assertRefused(source) { it == expected }

    private fun assertWhole(bundle: StoredBundle) {
        assertNull(bundle.problem)
        assertEquals(good.sumOf { it.second.size }.toLong(), bundle.bytes)
        for ((name, content) in good) assertArrayEquals(content, File(bundle.folder, name).readBytes())
        store.verify(bundle.id)
    }

    // --- good ones

    @Test
    fun `a good bundle comes in whole, however it is given`() {
        for (source in sources(good) + FolderSource(folder(good))) {
            val bundle = store.import(source)
            assertWhole(bundle)
            assertEquals(listOf(bundle), store.list())
            assertEquals(listOf(bundle.id), root.list().orEmpty().toList())
            store.delete(bundle.id)
            assertTrue(root.list().orEmpty().isEmpty())
        }
    }

    @Test
    fun `the id is the name and the manifest's hash`() {
        val manifest = sampleManifest(name = "../Ünsafe name")
        val bundle = store.import(source(with(MANIFEST to manifest.toByteArray())))
        assertEquals("_nsafe_name".length, bundle.id.substringBeforeLast('-').removePrefix("_").length)
        assertTrue(bundle.id, bundle.id.endsWith("-" + sha256Of(manifest.toByteArray()).take(8)))
        assertTrue(bundle.id, Regex("[A-Za-z0-9_][A-Za-z0-9._-]*").matches(bundle.id))
    }

    @Test
    fun `the same bundle is stored once, and a second import repairs it`() {
        val first = store.import(zipSource(zip(good)))
        assertEquals(first, store.import(FolderSource(folder(good))))
        assertEquals(1, root.list()!!.size)
        File(first.folder, PROGRAM).writeBytes(ByteArray(70_000))
        assertThrows(BundleException::class.java) { store.verify(first.id) }
        assertWhole(store.import(zipSource(zip(good))))
        assertEquals(1, root.list()!!.size)
    }

    @Test
    fun `bundles are listed by name`() {
        for (name in listOf("beta", "Alpha", "gamma")) {
            store.import(source(with(MANIFEST to sampleManifest(name = name).toByteArray())))
        }
        assertEquals(listOf("Alpha", "beta", "gamma"), store.list().map { it.manifest!!.what.name })
    }

    @Test
    fun `progress rises to the total`() {
        for (source in sources(good)) {
            val steps = mutableListOf<Pair<Long, Long?>>()
            val bundle = store.import(source, progress = { done, total -> steps += done to total })
            assertEquals(0L to source.totalBytes, steps.first())
            assertEquals(bundle.bytes to bundle.bytes, steps.last())
            assertEquals(steps.map { it.first }.sorted(), steps.map { it.first })
            store.delete(bundle.id)
        }
    }

    @Test
    fun `folders in a zip and a comment at its end do no harm`() {
        val out = ByteArrayOutputStream()
        ZipOutputStream(out).use { zip ->
            zip.setComment("made by hand ".repeat(1000))
            for ((name, content) in listOf("model/" to ByteArray(0)) + good) {
                zip.putNextEntry(ZipEntry(name))
                zip.write(content)
                zip.closeEntry()
            }
        }
        assertWhole(store.import(zipSource(out.toByteArray())))
    }

    @Test
    fun `imports of the same bundle at the same time give one bundle`() {
        val results = ConcurrentLinkedQueue<StoredBundle>()
        val threads = List(8) { number ->
            Thread { results += BundleStore(root).import(sources(good)[number % 5]) }
        }
        threads.forEach { it.start() }
        threads.forEach { it.join() }
        assertEquals(8, results.size)
        assertEquals(1, results.toSet().size)
        assertWhole(results.first())
        assertEquals(1, root.list()!!.size)
    }

    // --- bad ones

    @Test
    fun `no manifest`() {
        for (source in sources(without(MANIFEST))) assertRefused(source, Problem.NoManifest)
        assertRefused(FolderSource(folder(without(MANIFEST))), Problem.NoManifest)
        assertRefused(FolderSource(File(temporary.root, "missing")), Problem.NoManifest)
        assertRefused(zipSource(zip(good.map { (name, content) -> "top/$name" to content })), Problem.NoManifest)
        assertRefused(zipSource(zip(emptyList())), Problem.NoManifest)
    }

    @Test
    fun `a bad manifest`() {
        val bad = listOf("", "{", "[]", "not JSON", edited("extra", "1"), edited("version", "0"), edited("files", "[]"))
        for (text in bad) {
            for (source in sources(with(MANIFEST to text.toByteArray()))) {
                assertRefused(source) { it is Problem.BadManifest }
            }
        }
        val noText = source(with(MANIFEST to byteArrayOf(0x7b, 0xff.toByte())))
        assertRefused(noText) { it is Problem.BadManifest }
        val newer = edited("version", "99").toByteArray()
        for (source in sources(with(MANIFEST to newer))) assertRefused(source, Problem.NewerManifest("99", Manifest.VERSION))
    }

    @Test
    fun `a huge manifest`() {
        val endless = object : InputStream() {
            override fun read() = ' '.code
            override fun read(bytes: ByteArray, offset: Int, length: Int): Int {
                bytes.fill(' '.code.toByte(), offset, offset + length)
                return length
            }
        }
        val source = object : BundleSource {
            override val name = "test"
            override val totalBytes = null
            override fun forEachFile(visit: (String, InputStream) -> Unit) = visit(MANIFEST, endless)
        }
        assertRefused(source) { it is Problem.BadManifest }
        assertRefused(zipSource(zip(listOf(MANIFEST to ByteArray(20_000_000)), compressed = true))) {
            it is Problem.BadManifest
        }
    }

    @Test
    fun `files missing or too many`() {
        for (name in SAMPLE_FILES.keys) {
            for (source in sources(without(name)) + FolderSource(folder(without(name)))) {
                assertRefused(source, Problem.MissingFile(name))
            }
        }
        val extra = "readme.txt" to "x".toByteArray()
        for (source in sources(with(extra)) + FolderSource(folder(with(extra)))) {
            assertRefused(source, Problem.UnexpectedFile("readme.txt"))
        }
    }

    @Test
    fun `wrong sizes and contents`() {
        val program = SAMPLE_FILES.getValue(PROGRAM)
        for (length in listOf(0, 1, program.size - 1)) {
            for (source in sources(with(PROGRAM to program.copyOf(length)))) {
                assertRefused(source, Problem.WrongSize(PROGRAM, length.toLong(), program.size.toLong()))
            }
        }
        for (source in sources(with(PROGRAM to program.copyOf(program.size + 1)))) {
            assertRefused(source, Problem.WrongSize(PROGRAM, program.size + 1L, program.size.toLong()))
        }
        val altered = program.copyOf().also { it[program.size - 1] = (it[program.size - 1] + 1).toByte() }
        for (source in sources(with(PROGRAM to altered)) + FolderSource(folder(with(PROGRAM to altered)))) {
            assertRefused(source, Problem.WrongHash(PROGRAM))
        }
    }

    @Test
    fun `paths that would leave the folder`() {
        val outside = File(temporary.root, "evil")
        val names = listOf(
            "../evil", "a/../../evil", outside.path, "/${outside.path}", "..\\evil", "C:\\evil", "./evil", "a//b",
            "evil\n",
        )
        for (name in names) {
            for (files in listOf(listOf(name to ByteArray(1)), with(name to ByteArray(1)))) {
                for (source in sources(files)) assertRefused(source) { it is Problem.UnsafePath }
            }
            assertFalse(outside.exists())
        }
        assertRefused(zipSource(zip(listOf("../" to ByteArray(0)) + good)), Problem.UnsafePath(".."))
        val manifest = sampleManifest(SAMPLE_FILES + ("../evil" to ByteArray(1)))
        for (source in sources(with(MANIFEST to manifest.toByteArray(), "../evil" to ByteArray(1)))) {
            assertRefused(source, Problem.UnsafePath("../evil"))
        }
    }

    @Test
    fun `Android's own refusal of a path is understood`() {
        // Android 14 throws this from ZipInputStream itself.
        val stream = object : InputStream() {
            override fun read() = throw ZipException("Invalid zip entry path: ../evil")
        }
        assertRefused(ZipSource("bundle.zip", null) { stream }, Problem.UnsafePath("../evil"))
    }

    @Test
    fun `a file twice`() {
        val twice = good + good[1]
        assertRefused(source(twice), Problem.DuplicateFile(PROGRAM))
        assertRefused(source(listOf(good[1]) + good), Problem.DuplicateFile(PROGRAM))
        assertRefused(source(good + good[0]), Problem.DuplicateFile(MANIFEST))
        // Java's writer refuses it, so the name is changed afterwards.
        val other = good[2].first.replaceFirst('t', 'T')
        val bytes = zip(good + (other to good[2].second))
        val text = String(bytes, Charsets.ISO_8859_1).replace(other, good[2].first)
        assertRefused(zipSource(text.toByteArray(Charsets.ISO_8859_1)), Problem.DuplicateFile("tokenizer.json"))
    }

    @Test
    fun `a file where a folder is, and the other way round`() {
        for (files in listOf(listOf("a", "a/b"), listOf("a/b", "a"), listOf("manifest.json/a"))) {
            assertRefused(source(files.map { it to ByteArray(1) } + good)) {
                it is Problem.UnsafePath || it is Problem.DuplicateFile || it is Problem.UnexpectedFile
            }
        }
    }

    @Test
    fun `a zip bomb before the manifest`() {
        val out = ByteArrayOutputStream()
        ZipOutputStream(out).use { zip ->
            zip.putNextEntry(ZipEntry("weights.bin"))
            val zeros = ByteArray(1 shl 20)
            repeat(80) { zip.write(zeros) }
            zip.closeEntry()
        }
        assertRefused(zipSource(out.toByteArray()), Problem.ZipBomb("weights.bin"))
    }

    @Test
    fun `a zip bomb behind the manifest ends where the file should`() {
        var deepest = 0L
        val bytes = zip(with(PROGRAM to ByteArray(50_000_000)), compressed = true)
        val before = root.list()!!.toSet()
        assertThrows(BundleException::class.java) {
            store.import(zipSource(bytes), progress = { done, _ -> deepest = maxOf(deepest, done) })
        }
        assertTrue("$deepest", deepest < 300_000)
        assertEquals(before, root.list()!!.toSet())
    }

    @Test
    fun `a zip bomb that the manifest announces`() {
        val text = edited("files", """{
            "$PROGRAM": {"size": 100000000000, "sha256": "${"a".repeat(64)}"},
            "tokenizer.json": {"size": 1, "sha256": "${"a".repeat(64)}"}}""")
        assertRefused(source(with(MANIFEST to text.toByteArray()).reversed()), BundleStore(root) { 50_000_000_000 }) {
            it is Problem.NotEnoughSpace && it.needed > 100_000_000_000
        }
        val out = ByteArrayOutputStream()
        ZipOutputStream(out).use { zip ->
            zip.putNextEntry(ZipEntry(MANIFEST))
            zip.write(text.toByteArray())
            zip.putNextEntry(ZipEntry(PROGRAM))
            repeat(80) { zip.write(ByteArray(1 shl 20)) }
        }
        assertRefused(zipSource(out.toByteArray()), BundleStore(root) { Long.MAX_VALUE }) {
            it == Problem.ZipBomb(PROGRAM)
        }
    }

    @Test
    fun `too many files`() {
        val many = List(1100) { "f$it" to ByteArray(0) }
        assertRefused(source(many + good)) { it is Problem.ZipBomb }
        assertRefused(FolderSource(folder(many + good))) { it is Problem.UnexpectedFile }
    }

    @Test
    fun `what is no zip`() {
        val random = Random(1)
        for (bytes in listOf(ByteArray(0), ByteArray(3), random.nextBytes(100_000), sampleManifest().toByteArray())) {
            assertRefused(zipSource(bytes), Problem.DamagedZip)
        }
    }

    @Test
    fun `a truncated zip, wherever it ends`() {
        val random = Random(2)
        for (compressed in listOf(false, true)) {
            val bytes = zip(good, compressed)
            val atEnd = listOf(1, 2, 18, 21, 22, 23, 60, 200).map { bytes.size - it }
            val lengths = List(15) { random.nextInt(bytes.size) } + atEnd + listOf(0, 1, 4, 29, 30, 31, 43, 60)
            for (length in lengths) {
                assertRefused(zipSource(bytes.copyOf(length))) { it == Problem.DamagedZip }
            }
        }
    }

    @Test
    fun `a zip with a wrong byte gives the right bundle or none`() {
        val random = Random(3)
        for (compressed in listOf(false, true)) {
            val bytes = zip(good, compressed)
            repeat(40) {
                val damaged = bytes.copyOf()
                // Most bytes are content; the headers are at the ends.
                val at = if (it % 2 == 0) random.nextInt(bytes.size) else bytes.size - 1 - random.nextInt(400)
                damaged[at] = random.nextInt().toByte()
                try {
                    val bundle = store.import(zipSource(damaged))
                    assertWhole(bundle)
                    store.delete(bundle.id)
                } catch (_: BundleException) {
                    assertTrue(root.list()!!.isEmpty())
                }
            }
        }
    }

    @Test
    fun `an encrypted zip`() {
        val bytes = zip(good)
        bytes[6] = 1 // the flag in the first file's header
        assertRefused(zipSource(bytes), Problem.EncryptedZip("bundle.zip"))
    }

    @Test
    fun `links in a folder`() {
        val folder = folder(without("tokenizer.json"))
        val target = File(temporary.root, "target.json").apply { writeBytes(SAMPLE_FILES.getValue("tokenizer.json")) }
        Files.createSymbolicLink(File(folder, "tokenizer.json").toPath(), target.toPath())
        assertRefused(FolderSource(folder), Problem.UnsafePath("tokenizer.json"))
        val other = folder(good)
        Files.createSymbolicLink(File(other, "loop").toPath(), other.toPath())
        assertRefused(FolderSource(other), Problem.UnsafePath("loop"))
    }

    @Test
    fun `not enough space, known before`() {
        val reserve = 32L shl 20
        val size = good.sumOf { it.second.size }.toLong()
        val tight = BundleStore(root) { reserve + size - 1 - root.walk().filter { it.isFile }.sumOf { it.length() } }
        val sources = listOf(source(good, total = size), source(good), source(good.reversed()), zipSource(zip(good)))
        for (source in sources) {
            assertRefused(source, tight) { it is Problem.NotEnoughSpace && it.needed > it.free }
        }
    }

    @Test
    fun `not enough space while writing`() {
        val free = mutableListOf(Long.MAX_VALUE, Long.MAX_VALUE, Long.MAX_VALUE, 1000L)
        val filling = BundleStore(root) { free.removeFirstOrNull() ?: 1000L }
        assertRefused(source(good), filling) { it is Problem.NotEnoughSpace && it.free == 1000L }
    }

    @Test
    fun `cancelled at every stage`() {
        for (source in sources(good)) {
            var calls = 0
            val bundle = store.import(source, isCancelled = { calls++; false })
            store.delete(bundle.id)
            assertTrue(calls > 5)
            for (stage in 0 until calls) {
                var call = 0
                assertThrows(CancellationException::class.java) {
                    store.import(source, isCancelled = { call++ == stage })
                }
                assertTrue(root.list()!!.isEmpty())
            }
        }
    }

    @Test
    fun `a source that fails`() {
        class Failing(private val bytes: ByteArray, private val at: Int, private val error: Exception) : InputStream() {
            private var position = 0
            override fun read(): Int = throw AssertionError("read in blocks")
            override fun read(out: ByteArray, offset: Int, length: Int): Int {
                if (position >= at) throw error
                val count = minOf(length, at - position)
                bytes.copyInto(out, offset, position, position + count)
                position += count
                return count
            }
        }
        val bytes = zip(good)
        for (at in listOf(0, 1, 30, 5000, 50_000, bytes.size - 1)) {
            val broken = ZipSource("x", null) { Failing(bytes, at, IOException("the card was taken out")) }
            assertRefused(broken, Problem.Storage("the card was taken out"))
            val refused = ZipSource("x", null) { Failing(bytes, at, SecurityException("no access")) }
            assertRefused(refused, Problem.Storage("no access"))
            val bug = ZipSource("x", null) { Failing(bytes, at, IllegalStateException("bug")) }
            assertThrows(IllegalStateException::class.java) { store.import(bug) }
            assertTrue(root.list()!!.isEmpty())
        }
        assertRefused(ZipSource("x", null) { throw IOException("gone") }, Problem.Storage("gone"))
    }

    @Test
    fun `progress that throws leaves nothing behind`() {
        assertThrows(IllegalStateException::class.java) {
            store.import(source(good), progress = { done, _ -> check(done < 50_000) })
        }
        assertTrue(root.list()!!.isEmpty())
    }

    @Test
    fun `a store that cannot be written`() {
        val file = temporary.newFile("file")
        val store = BundleStore(file) { Long.MAX_VALUE }
        val error = assertThrows(BundleException::class.java) { store.import(source(good)) }
        assertTrue(error.problem is Problem.Storage)
        assertTrue(BundleStore(file).list().isEmpty())
    }

    // --- afterwards

    @Test
    fun `what a kill left is cleaned up, but not what runs`() {
        val bundle = store.import(source(good))
        File(root, ".importing-old/model").mkdirs()
        File(root, ".importing-old/model/part").writeText("x")
        File(root, ".deleting-old").mkdirs()
        assertEquals(listOf(bundle), store.list())
        var cleaned = -1
        store.delete(bundle.id)
        val again = store.import(
            source(good),
            progress = { done, _ -> if (done > 50_000) cleaned = maxOf(cleaned, store.cleanUp()) },
        )
        assertEquals(2, cleaned)
        assertWhole(again)
        assertEquals(0, store.cleanUp())
        assertEquals(listOf(again.id), root.list()!!.toList())
    }

    @Test
    fun `a bundle that was damaged later is listed with its problem`() {
        val bundle = store.import(source(good))
        val program = File(bundle.folder, PROGRAM)
        program.writeBytes(ByteArray(70_000))
        assertNull("sizes are right", store.list().single().problem)
        val error = assertThrows(BundleException::class.java) { store.verify(bundle.id) }
        assertEquals(Problem.WrongHash(PROGRAM), error.problem)
        program.writeBytes(ByteArray(5))
        assertEquals(Problem.WrongSize(PROGRAM, 5, 70_000), store.list().single().problem)
        program.delete()
        assertEquals(Problem.MissingFile(PROGRAM), store.list().single().problem)
        File(bundle.folder, MANIFEST).writeText("{")
        assertTrue(store.list().single().problem is Problem.BadManifest)
        assertNull(store.list().single().manifest)
        File(bundle.folder, MANIFEST).delete()
        assertEquals(Problem.NoManifest, store.list().single().problem)
        assertThrows(BundleException::class.java) { store.verify(bundle.id) }
        store.delete(bundle.id)
        assertTrue(store.list().isEmpty())
    }

    @Test
    fun `ids lead nowhere else`() {
        val secret = temporary.newFolder("secret")
        store.import(source(good))
        for (id in listOf("../secret", "", ".", "..", "missing", "/tmp", "a/b")) {
            store.delete(id)
            val error = assertThrows(BundleException::class.java) { store.verify(id) }
            assertEquals(Problem.BundleGone(id), error.problem)
        }
        assertTrue(secret.exists())
        assertEquals(1, store.list().size)
        assertNotEquals(0L, store.list().single().bytes)
    }

    @Test
    fun `a store that is not there yet is empty`() {
        val later = BundleStore(File(temporary.root, "later/bundles")) { Long.MAX_VALUE }
        assertTrue(later.list().isEmpty())
        assertEquals(0, later.cleanUp())
        later.import(source(good))
        assertEquals(1, later.list().size)
    }
}
