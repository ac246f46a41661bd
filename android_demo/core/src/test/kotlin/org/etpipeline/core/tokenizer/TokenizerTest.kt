package org.etpipeline.core.tokenizer

import java.io.File
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonPrimitive
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Small tokenizers, and what is refused. [TokenizerTruthTest] compares published ones with `tokenizers`. */
class TokenizerTest {
    @get:Rule val folder = TemporaryFolder()

    private val spaces = """{"type": "Replace", "pattern": {"String": " "}, "content": "_"}"""
    private val letters = listOf("a", "b", "_", "ab", "_ab", "<0xC3>", "<0xA9>", "<0xFF>", "<unk>")

    private fun read(content: String): Tokenizer =
        Tokenizer.read(folder.newFile().also { it.writeText(content) })

    private fun problem(content: String): String {
        val error = assertThrows(EngineException::class.java) { read(content) }
        return (error.problem as Problem.BadTokenizer).detail.substringAfter(": ")
    }

    /** Bytes of characters that are no token, and a space written as `_`. */
    private fun file(
        normalizer: String = spaces,
        decoder: String = """{"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}""",
        model: String = """"byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>", "merges": ["a b", "_ ab"]""",
        preTokenizer: String = "null",
        more: String = "",
    ): String {
        val vocabulary = letters.withIndex().joinToString { (id, text) -> "${JsonPrimitive(text)}: $id" }
        return """{"version": "1.0", "added_tokens": [
            {"id": 9, "content": "<end>", "special": true, "normalized": false, "single_word": false, "lstrip": false,
             "rstrip": true}, {"id": 8, "content": "<unk>", "special": true, "normalized": false, "single_word": false,
             "lstrip": false, "rstrip": false}],
            "normalizer": $normalizer, "pre_tokenizer": $preTokenizer, "decoder": $decoder,
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}},
              {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<end>": {"id": "<end>", "ids": [9]}}},
            "model": {"type": "BPE", "vocab": {$vocabulary}, $model}$more}"""
    }

    @Test fun `a text becomes tokens, and they become the text`() {
        val tokenizer = read(file())
        assertArrayEquals(intArrayOf(3, 4, 0, 5, 6, 8), tokenizer.encode("ab abaé€"))
        assertArrayEquals(intArrayOf(9, 3), tokenizer.encodeForModel("ab"))
        assertArrayEquals(intArrayOf(), tokenizer.encode(""))
        assertEquals(10, tokenizer.size)
        assertEquals(" ab", tokenizer.bytesOf(4).decodeToString())
        assertArrayEquals(byteArrayOf(0xC3.toByte()), tokenizer.bytesOf(5))
        assertEquals("<end>", tokenizer.bytesOf(9).decodeToString())
        assertEquals(0, tokenizer.bytesOf(10).size)
    }

    @Test fun `special tokens are found in a text`() {
        val tokenizer = read(file())
        assertArrayEquals(intArrayOf(0, 9, 1), tokenizer.encode("a<end> \n b"))
        assertTrue(tokenizer.isSpecial(9))
        assertFalse(tokenizer.isSpecial(0))
        assertFalse(tokenizer.isSpecial(99))
        assertEquals(9, tokenizer.idOf("<end>"))
        assertEquals(3, tokenizer.idOf("ab"))
        assertNull(tokenizer.idOf("ba"))
    }

    @Test fun `a stream waits for whole characters and loses none`() {
        val tokenizer = read(file())
        fun pieces(vararg ids: Int) = TextStream(tokenizer).let { stream -> ids.map(stream::add) + stream.finish() }
        assertEquals(listOf(" ab", "", "é", "a", ""), pieces(4, 5, 6, 0))
        assertEquals(listOf("", "\uFFFDa", ""), pieces(5, 0))
        assertEquals(listOf("", "\uFFFD"), pieces(5))
        assertEquals(listOf("", "\uFFFD\uFFFD", "\uFFFD", "a", "", "é", ""), pieces(5, 7, 6, 0, 5, 6))
        assertEquals(listOf("a", "", "b", ""), pieces(0, 77, 1))
    }

    @Test fun `bytes of letters are put together, however they are cut`() {
        val vocabulary = (0..255).joinToString { "${JsonPrimitive("${ByteLetters.letterOf(it)}")}: $it" }
        val tokenizer = read(
            """{"added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {$vocabulary}, "merges": []}}""",
        )
        val text = "aé€\uD83D\uDE00"
        assertEquals(text.encodeToByteArray().map { it.toInt() and 0xFF }, tokenizer.encode(text).toList())
        val stream = TextStream(tokenizer)
        assertEquals(text, tokenizer.encode(text).joinToString("") { stream.add(it) } + stream.finish())
        // One for as many bytes as could have begun a character, as Rust does.
        val broken = listOf(0xE2, 0x82, 0x41, 0xFF, 0xC0, 0xED, 0xA0, 0xF0, 0x9F)
        val said = broken.joinToString("") { stream.add(it) } + stream.finish()
        assertEquals("\uFFFDA\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD", said)
        assertArrayEquals(intArrayOf(0xEF, 0xBF, 0xBD), tokenizer.encode("\uD83D")) // half a character
    }

    @Test fun `what is not known is refused and named`() {
        assertEquals("normalizer is a 'Magic', which is not known here", problem(file("""{"type": "Magic"}""")))
        assertEquals(
            "normalizer has 'speed', which is not known here",
            problem(file("""{"type": "NFC", "speed": 1}""")),
        )
        assertEquals(
            "pre_tokenizer.pretokenizers.1 has the behavior 'Sideways', which is not known here",
            problem(
                file(
                    preTokenizer = """{"type": "Sequence", "pretokenizers": [{"type": "Whitespace"},
                      {"type": "Split", "pattern": {"String": "x"}, "behavior": "Sideways", "invert": false}]}""",
                ),
            ),
        )
        assertEquals("decoder is a 'CTC', which is not known here", problem(file(decoder = """{"type": "CTC"}""")))
        assertEquals(
            "decoder.decoders.1 comes too late for what is known here",
            problem(file(decoder = """{"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Metaspace"}]}""")),
        )
        assertEquals(
            "model has a dropout: its tokens are drawn by lot",
            problem(file(model = """"merges": [], "dropout": 0.1""")),
        )
        assertEquals("model.merges.0 is not of the vocabulary", problem(file(model = """"merges": [["a", "c"]]""")))
        assertEquals("model has no 'merges'", problem(file(model = """"unk_token": null""")))
        val pattern = problem(file(preTokenizer = split("a(?R)")))
        assertTrue(pattern, pattern.startsWith("pre_tokenizer.pattern: the regular expression 'a(?R)' has"))
    }

    private fun split(regex: String) =
        """{"type": "Split", "pattern": {"Regex": ${JsonPrimitive(regex)}}, "behavior": "Isolated", "invert": false}"""

    @Test fun `what is no JSON is refused`() {
        for (content in listOf("", "garbage", "{", "[]", "{\"model\"", "{\"model\": {}}", "{\"model\": ".repeat(99))) {
            assertThrows(content, EngineException::class.java) { read(content) }
        }
        val whole = file()
        for (length in 0 until whole.length step 7) {
            assertThrows(EngineException::class.java) { read(whole.take(length)) }
        }
    }

    @Test fun `a file that is not there is a problem of storage`() {
        val error = assertThrows(EngineException::class.java) { Tokenizer.read(File(folder.root, "none.json")) }
        assertTrue(error.problem is Problem.Storage)
    }

    @Test fun `a long word takes no time that grows with its square`() {
        val tokenizer = read(file())
        assertEquals(100_000, tokenizer.encode("ab".repeat(100_000)).size)
    }

    @Test fun `JSON is walked over`() {
        val json = JsonBytes(""" {"a\u00e9\n": [1, "x\"]", {"b": null}], "ü": "\ud83d\ude00"} """.encodeToByteArray())
        val members = json.members(json.start)
        assertEquals(setOf("aé\n", "ü"), members.keys)
        assertEquals(3, (json.tree(members.getValue("aé\n")) as JsonArray).size)
        val text = StringBuilder()
        json.text(members.getValue("ü"), text)
        assertEquals("\uD83D\uDE00", text.toString())
    }
}
