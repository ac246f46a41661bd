package org.etpipeline.demo.engine

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.EngineException
import org.etpipeline.core.Generation.End
import org.etpipeline.core.Problem
import org.etpipeline.engine.LlmModuleEngine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The engine over `LlmModule`, with its runner's limits. */
class LlmModuleEngineTest : EngineContract() {
    override fun make(pte: File, tokenizer: File, normalization: String?) = make(pte, tokenizer, normalization, null)

    private fun make(pte: File, tokenizer: File, normalization: String?, weights: File?) = LlmModuleEngine(
        pte,
        tokenizer,
        program.maxContext,
        manifest.tokenizer.specialTokens,
        weights,
        normalization = normalization,
    )

    @Test fun `stop by the callback`() {
        for (wanted in 1..5) {
            runBlocking { engine.reset() }
            val said = engine.say(first) { it.size < wanted }
            assertEquals(End.STOPPED, said.generation.end)
            assertTrue("The capital of Italy is Rome.".startsWith(said.text))
            // Stopping at the very first token is too late for the runner, which goes on to the second: then the first
            // was fed, too.
            val unfed = if (wanted == 1) "" else said.text.substring(said.text.lastIndexOf(said.generation.unfed))
            assertEquals(unfed, said.generation.unfed)
        }
    }

    @Test fun `what was cut off goes on where it was`() {
        val whole = engine.say(first).text
        for (wanted in 1..6) {
            runBlocking { engine.reset() }
            val head = engine.say(first) { it.size < wanted }
            if (head.generation.unfed.isEmpty()) continue
            assertEquals(whole, head.text + engine.say(head.generation.unfed).text)
        }
    }

    @Test fun `bytes that are no text are a problem with a name, and the next answer is whole`() {
        var broken = 0
        repeat(12) {
            runBlocking { engine.reset() }
            try {
                engine.say(first, 60, temperature = 30f) // noise
            } catch (error: EngineException) {
                assertEquals(Problem.BrokenText, error.problem)
                broken++
            }
            runBlocking { engine.reset() }
            assertEquals("The capital of Italy is Rome.", engine.say(first).text)
        }
        assertTrue("$broken of 12", broken > 0)
    }

    @Test fun `weights that are not there, or not whole, are refused`() {
        fun load(weights: File) = problemOf { runBlocking { keep(make(pte, tokenizer, null, weights)).load() } }
        assertEquals(Problem.MissingFile("none.ptd"), load(File(temporary.root, "none.ptd")))
        val header = ByteBuffer.allocate(48).order(ByteOrder.LITTLE_ENDIAN)
        header.putInt(0x48).put("FT01FH01".toByteArray()).putInt(40).putLong(48).putLong(16).putLong(64).putLong(100)
        val whole = header.array().copyOf(164)
        val noise = whole.clone().also { it[8] = 0 }
        for (bytes in listOf(0, 7, 47, 48, whole.size - 1).map(whole::copyOf) + noise) {
            val problem = load(temporary.newFile().apply { writeBytes(bytes) })
            assertTrue("${bytes.size}: $problem", problem is Problem.BadProgram && "weights" in problem.detail)
        }
    }
}
