package org.etpipeline.demo.engine

import java.io.File
import kotlin.system.measureNanoTime
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.EngineException
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.Problem
import org.etpipeline.engine.LlmModuleEngine
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/**
 * Adapters in the loaded program, on Android's own unmodified ExecuTorch library. `tools/adapters.py` makes the program
 * and says what Python's runtime answers when it is loaded with each.
 */
class AdaptersTest {
    @get:Rule val temporary = TemporaryFolder()

    private val folder = File(checkNotNull(System.getProperty("et.references"))).resolveSibling("adapters")
    private val slot by lazy { File(temporary.root, "slot.ptd") }
    private val engine by lazy {
        LlmModuleEngine(
            File(folder, "model.pte"),
            File(folder, "tokenizer.json"),
            maxContext = 256,
            weights = File(folder, "model.ptd"),
            slot = slot,
        )
    }
    private val answers = Json.parseToJsonElement(File(folder, "answers.json").readText()).jsonObject

    @Before fun load() = runBlocking<Unit> { engine.load() }

    @After fun close() = engine.close()

    private fun adapter(name: String) = if (name == "model") null else File(folder, "$name.ptd")

    private fun say(prompt: String) = buildString {
        runBlocking { engine.generate(prompt, GenerationRequest(maxNewTokens = 40)) { append(it); true } }
    }

    @Test fun `each adapter answers as in Python, whichever came before`() {
        val different = mutableSetOf<String>()
        for (name in listOf("model", "a", "b", "model", "b", "a", "a")) {
            for (expected in answers.getValue(name).jsonArray.map { it.jsonObject }) {
                runBlocking {
                    engine.adapt(adapter(name))
                    engine.reset() // which a change does by itself
                }
                val answer = say(expected.getValue("prompt").jsonPrimitive.content)
                assertEquals(name, expected.getValue("answer").jsonPrimitive.content, answer)
                different += answer
            }
        }
        assertEquals(9, different.size)
    }

    @Test fun `a change empties the context, and does not take long`() {
        val prompt = answers.getValue("model").jsonArray[0].jsonObject.getValue("prompt").jsonPrimitive.content
        val alone = say(prompt)
        val milliseconds = List(20) { turn ->
            measureNanoTime { runBlocking { engine.adapt(adapter(if (turn % 2 == 0) "a" else "b")) } } / 1e6
        }.min()
        runBlocking { engine.adapt(null) }
        assertEquals(alone, say(prompt))
        val uses = engine.uses
        runBlocking { engine.adapt(null) }
        assertEquals("what was said stays where nothing changes", uses, engine.uses)
        assertTrue("$milliseconds ms", milliseconds < 50)
    }

    @Test fun `an adapter for another program changes nothing`() {
        val before = slot.readBytes()
        val bytes = File(folder, "a.ptd").readBytes()
        val other = temporary.newFile()
        fun problem() = assertThrows(EngineException::class.java) { runBlocking { engine.adapt(other) } }.problem
        other.writeBytes(bytes.copyOf(bytes.size - 100))
        assertEquals(Problem.DamagedAdapter(other.name), problem())
        other.writeBytes(bytes.also { it[200] = (it[200] + 1).toByte() })
        assertEquals(Problem.ForeignAdapter(other.name), problem())
        other.delete()
        assertTrue("${problem()}", problem() is Problem.MissingFile)
        assertArrayEquals(before, slot.readBytes())
    }

    @Test fun `where its place cannot be made, it is said`() {
        val full = File(temporary.newFile("no-folder"), "slot.ptd")
        val program = File(folder, "model.pte")
        val weights = File(folder, "model.ptd")
        LlmModuleEngine(program, File(folder, "tokenizer.json"), 256, weights = weights, slot = full).use { other ->
            val problem = assertThrows(EngineException::class.java) { runBlocking { other.load() } }.problem
            assertTrue("$problem", problem is Problem.Storage)
        }
    }

    @Test fun `the bundle's own file stays as it is`() {
        val before = File(folder, "model.ptd").readBytes()
        runBlocking { engine.adapt(adapter("b")) }
        assertArrayEquals(before, File(folder, "model.ptd").readBytes())
        assertArrayEquals(File(folder, "b.ptd").readBytes(), slot.readBytes())
    }
}
