package org.etpipeline.demo.engine

import java.io.File
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.etpipeline.core.EngineException
import org.etpipeline.core.GenerationRequest
import org.etpipeline.engine.LlmModuleEngine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/**
 * Android's own tokenizer against Hugging Face's over et_pipeline's corpus, with published tokenizers as bundles have
 * them. `tools/parity.py` makes the programs, which answer with a sum of the prompt's ids, and what they have to answer.
 */
class TokenizerParityTest {
    private val folder = File(checkNotNull(System.getProperty("et.references"))).resolveSibling("parity")

    @Test fun `llama2`() = assertEquals(emptySet<String>(), check("llama2"))

    /** 1.3 does not know `ignore_merges`: a word of the vocabulary that no merges make comes in several tokens there. */
    @Test fun `llama3_1`() {
        val older = check("llama3_1")
        for (word in listOf(" Việt", " nhiều", " характер", " değiş")) assertTrue(word, "$word $word" in older)
        assertTrue(older.any { it.startsWith("Tôi đã học tiếng Việt") })
    }

    @Test fun `gemma3`() = assertEquals(emptySet<String>(), check("gemma3"))

    @Test fun `qwen3`() = assertEquals(emptySet<String>(), check("qwen3"))

    @Test fun `gptoss`() = assertEquals(emptySet<String>(), check("gptoss"))

    @Test fun `tiny_assistant`() = assertEquals(emptySet<String>(), check("tiny_assistant"))

    @Test fun `tiny_writer`() = assertEquals(emptySet<String>(), check("tiny_writer"))

    /** Of two added tokens that begin alike 1.3 takes the shorter. */
    @Test fun `tokens that take white space with them`() {
        val older = check("white_space")
        assertTrue("<x><y>" in older.map { it.trim() })
        assertEquals(emptyList<String>(), older.filterNot { "<x><y>" in it })
    }

    /** Returns the texts of which 1.3 makes something else than the original: what Python says of it without the rule. */
    private fun check(name: String): Set<String> {
        val expected = Json.parseToJsonElement(File(folder, "$name/expected.json").readText()).jsonObject
        val texts = expected.getValue("texts").jsonArray.map { it.jsonObject }
        assertTrue(texts.size >= 500)
        fun tokens(side: String) = expected.getValue(side).jsonArray.map { it.jsonPrimitive.content }
        val engine = LlmModuleEngine(
            File(folder, "$name/model.pte"),
            File(folder, "$name/tokenizer.json"),
            CONTEXT,
            bosToken = expected.getValue("bos_token").jsonPrimitive.contentOrNull,
            normalization = expected.getValue("normalization").jsonPrimitive.contentOrNull,
            lstrip = tokens("lstrip"),
            rstrip = tokens("rstrip"),
        )
        val wrong = engine.use { texts.mapNotNull { each -> differenceOf(engine, each) } }
        assertEquals(emptyList<String>(), wrong)
        return texts.filter { it.getValue("is_older").jsonPrimitive.boolean }
            .map { it.getValue("text").jsonPrimitive.content }.toSet()
    }

    /** What is wrong with the ids of a text, or with what they are said as, token by token; null: nothing. */
    private fun differenceOf(engine: LlmModuleEngine, expected: JsonObject): String? {
        val text = expected.getValue("text").jsonPrimitive.content
        val said = expected.getValue("said").jsonPrimitive.contentOrNull
        val tokens = expected.getValue("tokens").jsonPrimitive.int
        val pieces = mutableListOf<String>()
        val most = DIGITS + if (said == null) 0 else tokens
        val generation = try {
            runBlocking {
                engine.reset()
                engine.generate(text, GenerationRequest(most, addBos = "bos" in expected)) { piece ->
                    pieces += piece // of a character that takes several tokens there is one
                    pieces.drop(DIGITS).sumOf { it.length } < (said?.length ?: 1)
                }
            }
        } catch (error: EngineException) {
            return "$text: ${error.problem} after ${pieces.drop(DIGITS)}"
        }
        val told = pieces.take(DIGITS).joinToString(" ")
        val isEqual = generation.promptTokens == tokens && told == expected.getValue("told").jsonPrimitive.content
        if (!isEqual) return "$text: ${generation.promptTokens} tokens and not $tokens, or others"
        val streamed = pieces.drop(DIGITS).joinToString("")
        return if (said != null && streamed != said) "$text: said as $streamed and not $said" else null
    }

    private companion object {
        const val CONTEXT = 1 shl 14
        const val DIGITS = 4
    }
}
