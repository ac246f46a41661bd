package org.etpipeline.core

import java.io.BufferedReader
import java.io.File
import java.io.FilterInputStream
import java.io.InputStream
import java.util.concurrent.locks.LockSupport
import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

private const val KILLS = 10 // at least: they go on until one came in the middle of a writing
private const val SIGKILL = 9

/** Processes that are really killed while they write: nothing of them can clean up, and what is on disk has to do. */
class KilledTest {
    @get:Rule
    val temporary = TemporaryFolder()
    private val random = Random(7)

    @Test(timeout = 120_000)
    fun `a kill during an import or a deletion leaves whole bundles and nothing else`() {
        val root = temporary.newFolder("bundles")
        val kept = BundleStore(root).import(FolderSource(bundle("kept")))
        val many = Array(40) { "more/$it" to random.nextBytes(1000) } // so that deleting takes a while, too
        val source = bundle("large", "tokenizer.json" to random.nextBytes(1_000_000), *many)
        var killedInside = 0
        var number = 0
        while (number++ < KILLS || killedInside == 0) {
            if (number % 2 == 0) kill("import", root, source) else kill("import", root, source, until = "deleting")
            val left = root.list()!!.toSet()
            killedInside += left.count { it.startsWith(".") }
            val store = BundleStore(root)
            store.cleanUp()
            val whole = store.list()
            whole.forEach { bundle -> store.verify(bundle.id) }
            assertEquals(whole.map { it.id }.toSet(), root.list()!!.toSet())
            assertTrue("$left", whole.any { it.id == kept.id })
            assertTrue("$left", whole.all { it.id == kept.id || it.manifest?.what?.name == "large" })
        }
        val again = BundleStore(root).import(FolderSource(source))
        assertEquals(setOf(kept.id, again.id), root.list()!!.toSet())
    }

    @Test(timeout = 120_000)
    fun `a kill during an answer leaves a chat as it was saved last`() {
        val folder = temporary.newFolder("chats")
        val other = Conversation("other", "b", "t", 1, listOf(SavedMessage(Role.USER, "hello")))
        JsonFolder(folder, Conversation.serializer()).write(other.id, other)
        var killedInside = 0
        var number = 0
        while (number++ < KILLS || killedInside == 0) {
            val halfWritten = File(folder, "chat.tmp").takeIf { number % 2 == 0 }
            val saved = kill("chat", folder, seen = halfWritten).last().toInt()
            killedInside += folder.list()!!.count { it !in listOf("chat.json", "other.json") }
            val chats = JsonFolder(folder, Conversation.serializer()).all()
            assertEquals(setOf("chat", "other"), chats.keys)
            assertEquals(other, chats.getValue("other"))
            val answer = chats.getValue("chat").turns.last()
            val words = answer.text.split(' ').size
            assertEquals(Victim.answer(words), answer)
            assertTrue("$words, and $saved were saved", words >= saved)
            assertEquals(setOf("chat.json", "other.json"), folder.list()!!.toSet())
        }
    }

    private fun bundle(name: String, vararg files: Pair<String, ByteArray>): File {
        val all = SAMPLE_FILES + files
        val folder = temporary.newFolder(name)
        File(folder, Manifest.FILE_NAME).writeText(sampleManifest(all, name))
        for ((path, content) in all) File(folder, path).apply { parentFile!!.mkdirs() }.writeBytes(content)
        return folder
    }

    /**
     * Starts a [Victim], kills it at some moment, or soon after a word, or as soon as a file is [seen], and returns what
     * it has said until then.
     */
    private fun kill(vararg arguments: Any, until: String? = null, seen: File? = null): List<String> {
        val java = File(System.getProperty("java.home"), "bin/java").path
        val options = listOf("-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"))
        val command = listOf(java) + options + Victim::class.java.name + arguments.map { it.toString() }
        val process = ProcessBuilder(command).redirectErrorStream(true).start()
        try {
            val output = process.inputStream.bufferedReader()
            val said = MutableList(random.nextInt(1, 4)) { output.next(process) }
            while (until != null && said.last() != until) said += output.next(process)
            if (seen == null) LockSupport.parkNanos(random.nextLong(if (until == null) 60_000_000 else 2_000_000))
            while (seen?.exists() == false) Thread.onSpinWait()
            process.toHandle().destroyForcibly() // Process's own would close the output as well
            said += output.readLines()
            // Anything else has ended by itself.
            assertEquals("$said", 128 + SIGKILL, process.waitFor())
            return said
        } finally {
            process.destroyForcibly()
        }
    }

    private fun BufferedReader.next(process: Process): String =
        checkNotNull(readLine()) { "the process ended by itself with ${process.waitFor()}" }
}

/** The program of the process that is killed. It says each step on its standard output, and never ends. */
internal object Victim {
    private const val FIRST_WORDS = 20_000 // writing them takes long enough to be hit

    @JvmStatic
    fun main(arguments: Array<String>) {
        val folder = File(arguments[1])
        if (arguments[0] == "import") import(BundleStore(folder), File(arguments[2])) else chat(folder)
    }

    private fun import(store: BundleStore, source: File): Nothing {
        while (true) {
            println("importing")
            val bundle = store.import(Slow(FolderSource(source)))
            println("deleting")
            store.delete(bundle.id)
        }
    }

    /** As the chat screen saves an answer while it comes: from a new process, it goes on. */
    private fun chat(folder: File): Nothing {
        val chats = JsonFolder(folder, Conversation.serializer())
        var words = chats.all()["chat"]?.run { turns.last().text.split(' ').size } ?: FIRST_WORDS
        while (true) {
            words++
            val turns = listOf(SavedMessage(Role.USER, "count"), answer(words))
            chats.write("chat", Conversation("chat", "b", "count", words.toLong(), turns))
            println(words)
        }
    }

    fun answer(words: Int) = SavedMessage(Role.ASSISTANT, (1..words).joinToString(" "), unfinished = true)

    /** Gives its files in small blocks, with a pause after each, as a slow memory card does. */
    private class Slow(private val source: BundleSource) : BundleSource by source {
        override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) = source.forEachFile { name, content ->
            visit(name, object : FilterInputStream(content) {
                override fun read(into: ByteArray, offset: Int, length: Int): Int {
                    Thread.sleep(1)
                    return super.read(into, offset, minOf(length, 1 shl 16))
                }
            })
        }
    }
}
