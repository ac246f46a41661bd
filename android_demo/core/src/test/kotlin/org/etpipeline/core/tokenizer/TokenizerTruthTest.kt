package org.etpipeline.core.tokenizer

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeNotNull
import org.junit.Test

/**
 * The app's tokenizer against Hugging Face's `tokenizers`, with published tokenizers and ones of other kinds: over
 * et_pipeline's corpus, nearly all of Unicode, and thousands of texts drawn by lot. `tools/tokens.py` makes what is
 * expected.
 *
 * Texts with characters that this JVM's Unicode (13 in Java 17) does not have are left out: nobody can know here
 * whether they are letters. Their number is limited.
 */
class TokenizerTruthTest {
    private val folder: File by lazy {
        val references = System.getProperty("et.references")
        assumeNotNull("tools/tokens.py has to run before", references)
        File(references).resolveSibling("parity/tokens")
    }

    @Test fun `llama2`() = check("llama2", "llama2.mended")

    @Test fun `llama3_1`() = check("llama3_1", "llama3_1.mended")

    @Test fun `gemma3`() = check("gemma3", "gemma3.mended")

    @Test fun `qwen3`() = check("qwen3", "qwen3.mended")

    @Test fun `gptoss`() = check("gptoss", "gptoss.mended")

    @Test fun `deepseek_v3`() = check("deepseek_v3")

    @Test fun `claude`() = check("claude")

    @Test fun `minilm`() = check("minilm")

    @Test fun `tiny_assistant`() = check("tiny_assistant", "tiny_assistant.mended")

    @Test fun `tiny_writer`() = check("tiny_writer", "tiny_writer.mended")

    @Test fun `tokens that take white space with them`() = check("white_space", "white_space.mended")

    @Test fun `Unigram with a table of characters`() = check("unigram")

    @Test fun `Unigram with tokens for bytes`() = check("unigram_bytes")

    @Test fun `WordPiece with other steps than BERT's`() = check("word_piece")

    @Test fun `words that end with a mark`() = check("word_suffix")

    @Test fun `words that begin with a space`() = check("prefix_space")

    @Test fun `words that are cut in several ways`() = check("first_word")

    @Test fun `regular expressions of other tokenizers`() {
        val documents = File(folder, "patterns.expected").readLines().map { Json.parseToJsonElement(it).jsonObject }
        assertTrue("${documents.size}", documents.size > LEAST_PATTERNS)
        val wrong = documents.flatMap { document ->
            val regex = document.getValue("regex").jsonPrimitive.content
            val split = PreTokenizer.Split(readPattern(regex), Behavior.ISOLATED)
            document.getValue("texts").jsonArray.mapNotNull { pieces ->
                val wanted = pieces.jsonArray.map { it.jsonPrimitive.content }
                val found = split.cut(Piece(wanted.joinToString(""), isFirst = true)).map { it.text }
                if (found == wanted || isNewer(wanted.joinToString(""))) null
                else "$regex: ${found.map(::shown)} and not ${wanted.map(::shown)}"
            }
        }
        assertEquals("${wrong.size}", emptyList<String>(), wrong.take(SHOWN))
    }

    private fun check(vararg names: String) = names.forEach { name ->
        val tokenizer = Tokenizer.read(File(folder, "$name.json"))
        File(folder, "$name.expected").useLines { lines ->
            val documents = lines.map { Json.parseToJsonElement(it).jsonObject }.iterator()
            checkTokens(tokenizer, documents.next())
            var count = 0
            var newer = 0
            val wrong = mutableListOf<String>()
            for (document in documents) {
                if (isNewer(document["text"]?.jsonPrimitive?.contentOrNull.orEmpty())) newer++
                else differenceOf(tokenizer, document)?.let { wrong += it }
                count++
            }
            println("$name: $count texts, $newer of them with newer characters, ${wrong.size} differences")
            assertEquals("$name, ${wrong.size} of $count", emptyList<String>(), wrong.take(SHOWN))
            assertTrue("$name: $count texts", count > LEAST)
            assertTrue("$newer of $count texts have newer characters", newer < count / MOST_NEWER)
        }
    }

    private fun checkTokens(tokenizer: Tokenizer, expected: JsonObject) {
        assertEquals(expected.getValue("size").jsonPrimitive.int, tokenizer.size)
        val special = expected.getValue("special").jsonObject
        for (id in 0 until tokenizer.size) {
            assertEquals(special["$id"]?.jsonPrimitive?.boolean ?: false, tokenizer.isSpecial(id))
        }
    }

    /** What is wrong with a text's ids, or with what a row of ids is said as; null: nothing. */
    private fun differenceOf(tokenizer: Tokenizer, expected: JsonObject): String? {
        val ids = expected.getValue("ids").jsonArray.ids()
        val text = expected["text"]?.jsonPrimitive?.content
        if (text != null) {
            val found = tokenizer.encode(text).toList()
            if (found != ids) return "ids of ${shown(text)}: ${firstDifference(tokenizer, found, ids)}"
        }
        val framed = expected["framed"]?.jsonArray?.ids()
        if (text != null && framed != null && tokenizer.encodeForModel(text).toList() != framed) {
            return "for the model, ${shown(text)}: ${tokenizer.encodeForModel(text).toList()} and not $framed"
        }
        val said = expected["said"]?.jsonPrimitive?.content ?: return null
        val stream = TextStream(tokenizer)
        val streamed = ids.joinToString("") { stream.add(it) } + stream.finish()
        if (streamed != said) return "said of $ids: ${shown(streamed)} and not ${shown(said)}"
        val whole = ids.map { tokenizer.bytesOf(it) }.fold(ByteArray(0)) { sum, bytes -> sum + bytes }.decodeToString()
        return if ('\uFFFD' !in said && whole != said) "bytes of $ids: ${shown(whole)} and not ${shown(said)}" else null
    }

    private fun firstDifference(tokenizer: Tokenizer, found: List<Int>, wanted: List<Int>): String {
        val at = found.zip(wanted).indexOfFirst { (one, other) -> one != other }.takeIf { it >= 0 }
            ?: minOf(found.size, wanted.size)
        fun some(ids: List<Int>) = ids.drop(at).take(4).map { "$it=${shown(tokenizer.bytesOf(it).decodeToString())}" }
        return "at $at ${some(found)} and not ${some(wanted)}"
    }

    private fun shown(text: String): String = text.take(SHOWN_TEXT).map { char ->
        if (char.code in 0x21..0x7E || char.isLetterOrDigit()) "$char" else "\\u%04x".format(char.code)
    }.joinToString("")

    private fun JsonArray.ids() = map { it.jsonPrimitive.int }

    private fun isNewer(text: String) = text.codePoints().anyMatch { !Character.isDefined(it) }

    private companion object {
        const val SHOWN = 10
        const val SHOWN_TEXT = 120
        const val LEAST = 2500
        const val LEAST_PATTERNS = 25
        const val MOST_NEWER = 20
    }
}
