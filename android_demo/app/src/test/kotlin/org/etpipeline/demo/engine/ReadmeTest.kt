package org.etpipeline.demo.engine

import java.io.File
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BundleStore
import org.etpipeline.core.ChatSession
import org.etpipeline.core.Manifest
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.readManifest
import org.etpipeline.demo.bundleFolder
import org.etpipeline.demo.models.adapterBundle
import org.etpipeline.engine.AdapterStore
import org.etpipeline.engine.openEngine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** What the README tells people to write works. */
class ReadmeTest {
    @get:Rule val temporary = TemporaryFolder()

    @Test
    fun `the README's function answers`() = runBlocking {
        assertEquals("The capital of Italy is Rome.", ask(bundleFolder, "What is the capital of Italy?"))
    }

    @Test
    fun `the README's function for adapters answers`() = runBlocking {
        val bundle = BundleStore(temporary.newFolder()).import(adapterBundle.source())
        val answer = askWith("b", bundle, AdapterStore(temporary.newFolder()), "What is the capital of Italy?")
        assertTrue(answer, answer.isNotBlank() && "Rome" !in answer)
    }

    @Test
    fun `they are the README's functions`() {
        val functions = File("../README.md").readText().split("```kotlin\n").map { it.substringBefore("```") }
            .filter { it.startsWith("suspend fun") }
        assertEquals(2, functions.size)
        val here = File("src/test/kotlin/org/etpipeline/demo/engine/ReadmeTest.kt").readText()
        for (function in functions) assertTrue(function, function in here)
    }
}

suspend fun ask(folder: File, question: String): String {
    val manifest = readManifest(File(folder, Manifest.FILE_NAME).readText())
    val engine = openEngine(folder, manifest, manifest.programs.first { it.backend == "xnnpack" })
    engine.use {
        val chat = ChatSession(it, manifest.chat, manifest.tokenizer.specialTokens)
        val answer = chat.ask(question, maxNewTokens = 64) { text -> print(text) }
        println("${answer.generation.decodeTokensPerSecond} tok/s")
        return answer.text
    }
}

suspend fun askWith(name: String, bundle: StoredBundle, adapters: AdapterStore, question: String): String {
    val manifest = checkNotNull(bundle.manifest)
    val program = manifest.programs.first { it.adapterRank > 0 }
    val adapter = adapters.find(name, bundle, program)
    val slot = File.createTempFile("adapter", ".ptd") // for this engine alone
    openEngine(bundle.folder, manifest, program, slot).use { engine ->
        val chat = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens, adapter = adapter)
        return chat.ask(question, maxNewTokens = 40).text
    }
}
