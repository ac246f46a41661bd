package org.etpipeline.demo.engine

import java.io.File
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.ChatSession
import org.etpipeline.core.Manifest
import org.etpipeline.core.readManifest
import org.etpipeline.demo.bundleFolder
import org.etpipeline.engine.openEngine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the README tells people to write works. */
class ReadmeTest {
    @Test
    fun `the README's function answers`() = runBlocking {
        assertEquals("The capital of Italy is Rome.", ask(bundleFolder, "What is the capital of Italy?"))
    }

    @Test
    fun `it is the README's function`() {
        val readme = File("../README.md").readText()
        val function = readme.substringAfter("```kotlin\n").substringBefore("```")
        assertTrue(function in File("src/test/kotlin/org/etpipeline/demo/engine/ReadmeTest.kt").readText())
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
