package org.etpipeline.demo.engine

import java.io.ByteArrayInputStream
import java.io.File
import java.io.FilterInputStream
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.text.Normalizer
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleStore
import org.etpipeline.core.Problem
import org.etpipeline.demo.models.adapterBundle
import org.etpipeline.demo.models.adaptersFolder
import org.etpipeline.engine.AdapterStore
import org.etpipeline.engine.KnownAdapter
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class AdapterStoreTest {
    @get:Rule val temporary = TemporaryFolder()

    private val bundle by lazy { BundleStore(temporary.newFolder("bundles")).import(adapterBundle.source()) }
    private val program by lazy { checkNotNull(bundle.manifest).programs.single() }
    private val root by lazy { File(temporary.root, "adapters") }
    private val store by lazy { AdapterStore(root) }
    private val good = File(adaptersFolder, "a.ptd").readBytes()

    private fun add(content: ByteArray, name: String = "a.ptd") =
        store.add(bundle, program, name, ByteArrayInputStream(content))

    private fun problemOf(name: String = "a.ptd", block: () -> ByteArray): Problem {
        val problem = assertThrows(BundleException::class.java) { add(block(), name) }.problem
        assertEquals("nothing of it stays", emptyList<File>(), root.walk().filter { it.isFile }.toList())
        return problem
    }

    @Test fun `those of the bundle, then those that were added`() {
        val inside = store.list(bundle, program).single()
        assertEquals("b" to "Words at random", inside.name to inside.said?.about)
        val changes = store.changes.value
        val added = add(good, "My own: first.ptd")
        assertEquals("My_own_first", added.name)
        assertNull(added.said)
        assertArrayEquals(good, added.file.readBytes())
        assertEquals(good.size.toLong(), added.bytes)
        assertEquals(listOf("b", "My_own_first"), store.list(bundle, program).map { it.name })
        assertEquals(changes + 1, store.changes.value)
        assertEquals(emptyList<Any>(), store.list(bundle, program.copy(adapterRank = 0)))
        assertEquals(listOf("b"), store.list(bundle.copy(id = "another"), program).map { it.name })

        store.delete(bundle, "My_own_first")
        assertEquals(listOf("b"), store.list(bundle, program).map { it.name })
        add(good)
        store.deleteAll(bundle.id)
        assertTrue(root.list().isNullOrEmpty())
    }

    @Test fun `a name stands for one`() {
        assertEquals(Problem.DuplicateAdapter("b"), problemOf("b.ptd") { good })
        add(good)
        assertEquals(Problem.DuplicateAdapter("a"), assertThrows(BundleException::class.java) { add(good) }.problem)
        assertEquals("adapter", add(good, "../.ptd").name)
        assertEquals("no file outside", setOf("a.ptd", "adapter.ptd"), File(root, bundle.id).list().orEmpty().toSet())
    }

    @Test fun `two that are added at once do not get into each other`() {
        val other = File(adaptersFolder, "b.ptd").readBytes()
        fun addDuring(first: String, second: String): KnownAdapter {
            var isAsked = false
            val slow = object : FilterInputStream(ByteArrayInputStream(good)) {
                override fun read(block: ByteArray, start: Int, count: Int): Int {
                    if (!isAsked) add(other, second).also { isAsked = true }
                    return super.read(block, start, minOf(count, 1000))
                }
            }
            return store.add(bundle, program, first, slow)
        }
        assertArrayEquals(good, addDuring("one", "two").file.readBytes())
        assertArrayEquals(other, store.list(bundle, program).single { it.name == "two" }.file.readBytes())

        val problem = assertThrows(BundleException::class.java) { addDuring("same", "same") }.problem
        assertEquals(Problem.DuplicateAdapter("same"), problem)
        assertArrayEquals(other, store.list(bundle, program).single { it.name == "same" }.file.readBytes())
        assertEquals(setOf("one.ptd", "same.ptd", "two.ptd"), File(root, bundle.id).list().orEmpty().toSet())
    }

    @Test fun `what a killed app has left is cleaned away`() {
        val left = File(File(root, bundle.id).also { it.mkdirs() }, ".adding").also { it.writeBytes(good) }
        val kept = add(good).file
        AdapterStore(root)
        assertEquals(listOf(false, true), listOf(left, kept).map { it.exists() })
    }

    @Test fun `names of any script stay, within what a file's may have`() {
        val names = listOf("رسمي", "気軽な話し方", "बोलचाल", "Ünïcode-2.1")
        assertEquals(names, names.map { add(good, "$it.ptd").name })
        val apart = Normalizer.normalize("Ünïcode-2.1", Normalizer.Form.NFD)
        val problem = assertThrows(BundleException::class.java) { add(good, apart) }.problem
        assertEquals("the same, however it is written", Problem.DuplicateAdapter("Ünïcode-2.1"), problem)
        assertEquals("a_b_c", add(good, "./a/b\u0000\n\\c.ptd").name)
        assertEquals("話".repeat(40), add(good, "話".repeat(90)).name)
        assertEquals("no half of a character", "a".repeat(119), add(good, "a".repeat(119) + "𠮷".repeat(3)).name)
    }

    @Test fun `what is damaged is refused`() {
        for (size in listOf(0, 7, 48, good.size - 100)) {
            assertEquals(Problem.DamagedAdapter("a.ptd"), problemOf { good.copyOf(size) })
        }
        assertEquals(Problem.DamagedAdapter("x.safetensors"), problemOf("x.safetensors") { ByteArray(5000) { 7 } })
        assertEquals(Problem.DamagedAdapter("a.ptd"), problemOf { good + byteArrayOf(0) })
        val last = ByteBuffer.wrap(good.clone()).order(ByteOrder.LITTLE_ENDIAN)
        val start = last.getLong(32).toInt()
        last.putFloat(start, Float.NaN)
        assertEquals(Problem.DamagedAdapter("a.ptd"), problemOf { last.array() })
    }

    @Test fun `one of another model is refused, also a far larger one, of which no more is read than can be one`() {
        assertEquals(Problem.ForeignAdapter("a.ptd"), problemOf { good.clone().also { it[200]++ } })
        val header = ByteBuffer.wrap(good.copyOf(48)).order(ByteOrder.LITTLE_ENDIAN).putLong(40, 1L shl 40).array()
        var read = 0L
        val endless = object : InputStream() {
            override fun read() = (if (read < header.size) header[read.toInt()].toInt() and 0xff else 0).also { read++ }
        }
        val error = assertThrows(BundleException::class.java) { store.add(bundle, program, "big.ptd", endless) }
        assertEquals(Problem.ForeignAdapter("big.ptd"), error.problem)
        assertTrue("$read", read < 2 * good.size)
    }
}
