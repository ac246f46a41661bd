package org.etpipeline.demo.engine

import java.io.File
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.GenerationRequest
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/**
 * Android's own tokenizer against Hugging Face's over et_pipeline's corpus, with published tokenizers as bundles have
 * them. `tools/parity.py` makes the programs, which answer with a sum of the prompt's ids, and what they have to answer.
 */
class TokenizerParityTest {
    private val folder = File(checkNotNull(System.getProperty("et.references"))).resolveSibling("parity")

    @Test fun `llama2`() = check("llama2")

    /** 1.3 does not know `ignore_merges`: a word of the vocabulary that no merges make comes in two tokens there. */
    @Test fun `llama3_1`() = check("llama3_1") { "Việt" in it }

    @Test fun `gemma3`() = check("gemma3")

    @Test fun `qwen3`() = check("qwen3")

    @Test fun `gptoss`() = check("gptoss")

    @Test fun `tiny_assistant`() = check("tiny_assistant")

    @Test fun `tiny_writer`() = check("tiny_writer")

    private fun check(name: String, isKnown: (String) -> Boolean = { false }) {
        val texts = Json.parseToJsonElement(File(folder, "$name/expected.json").readText()).jsonArray
        assertTrue(texts.size >= 500)
        val engine = ExecuTorchEngine(File(folder, "$name/model.pte"), File(folder, "$name/tokenizer.json"), CONTEXT)
        val wrong = mutableListOf<String>()
        engine.use {
            for (each in texts.map { it.jsonObject }) {
                val text = each.getValue("text").jsonPrimitive.content
                val pieces = mutableListOf<String>()
                val generation = runBlocking {
                    engine.reset()
                    engine.generate(text, GenerationRequest(DIGITS)) { pieces.add(it) }
                }
                val isEqual = generation.promptTokens == each.getValue("tokens").jsonPrimitive.int &&
                    pieces.take(DIGITS).joinToString(" ") == each.getValue("told").jsonPrimitive.content
                if (!isEqual) wrong += text
            }
        }
        assertEquals(emptyList<String>(), wrong.filterNot(isKnown))
        assertTrue(wrong.size <= texts.size / 200)
    }

    private companion object {
        const val CONTEXT = 1 shl 14
        const val DIGITS = 4
    }
}
