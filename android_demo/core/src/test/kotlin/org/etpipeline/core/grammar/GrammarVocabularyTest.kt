package org.etpipeline.core.grammar

import java.io.File
import kotlin.random.Random
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test

/** Answers over the vocabularies of published models; `tools/parity.py` puts their tokenizers beside the references. */
class GrammarVocabularyTest {
    @Test fun `qwen3`() = check("qwen3")

    @Test fun `gemma3`() = check("gemma3")

    @Test fun `llama2`() = check("llama2")

    @Test fun `tiny_assistant`() = check("tiny_assistant")

    private fun check(name: String) {
        val references = System.getProperty("et.references")
        assumeTrue("run with --references", references != null)
        val file = File(checkNotNull(references)).resolveSibling("parity/$name/tokenizer.json")
        assumeTrue("run tools/parity.py", file.isFile)
        val tokens = tokensOf(Json.parseToJsonElement(file.readText()).jsonObject)
        val before = usedMemory()
        val started = System.nanoTime()
        val vocabulary = Vocabulary(tokens)
        say(name, "${tokens.size} tokens, tree in ${millis(started)} ms and ${(usedMemory() - before) shr 20} MiB")
        for (schema in listOf("symptoms", "tree", "patterns", "anything")) check(name, schema, vocabulary)
    }

    private fun check(name: String, schemaName: String, vocabulary: Vocabulary) {
        val schema = SCHEMAS.getValue(schemaName)
        val before = usedMemory()
        val started = System.nanoTime()
        val grammar = Grammar.ofJsonSchema(schema)
        say("$name $schemaName", "read in ${millis(started)} ms")
        repeat(2) { round ->
            val timed = TimedGrammar(grammar)
            val random = Random(1)
            repeat(15) {
                val text = GrammarSampler(vocabulary, random).answer(timed.begin(vocabulary), 80, 0.9f)
                assertTrue(text, SchemaCheck(schema).fits(Json.parseToJsonElement(text)))
            }
            say("$name $schemaName", "${if (round == 0) "cold" else "again"}: ${timed.figures()}")
        }
        say("$name $schemaName", "${(usedMemory() - before) shr 20} MiB kept")
        grammar.constraint(vocabulary) // the grammar has to be there until the memory is measured
    }

    private fun say(of: String, what: String) = println("$of: $what")

    private fun usedMemory(): Long {
        System.gc()
        return Runtime.getRuntime().run { totalMemory() - freeMemory() }
    }
}

private fun millis(since: Long): String = "%.2f".format((System.nanoTime() - since) / 1e6)

/** Takes the time of each mask. */
private class TimedGrammar(private val grammar: Grammar) {
    private val times = mutableListOf<Double>()

    fun begin(vocabulary: Vocabulary): Constraint {
        val constraint = grammar.constraint(vocabulary)
        return object : Constraint by constraint {
            override fun mask(tokensLeft: Int) = System.nanoTime().let { started ->
                constraint.mask(tokensLeft).also { times += (System.nanoTime() - started) / 1e6 }
            }
        }
    }

    fun figures(): String {
        times.sort()
        val shares = listOf(50, 90, 99, 100).map { "$it %%: %.3f".format(times[(times.size - 1) * it / 100]) }
        return "${times.size} masks, ms at $shares"
    }
}

/** The bytes of each token of a tokenizer.json; special ones have none. */
private fun tokensOf(tokenizer: JsonObject): List<ByteArray?> {
    val added = tokenizer.getValue("added_tokens").jsonArray.map { it.jsonObject }
    val ids = tokenizer.getValue("model").jsonObject.getValue("vocab").jsonObject
        .mapValues { it.value.jsonPrimitive.int }
    val isByteLevel = "ByteLevel" in tokenizer.getValue("decoder").toString()
    val size = maxOf(ids.values.max(), added.maxOfOrNull { it.getValue("id").jsonPrimitive.int } ?: 0) + 1
    val tokens = arrayOfNulls<ByteArray>(size)
    for ((text, id) in ids) tokens[id] = if (isByteLevel) byteLevel(text) else withFallback(text)
    for (token in added) {
        val isSpecial = token.getValue("special").jsonPrimitive.boolean
        val bytes = if (isSpecial) null else token.text("content").toByteArray()
        tokens[token.getValue("id").jsonPrimitive.int] = bytes
    }
    return tokens.toList()
}

private fun Map<String, JsonElement>.text(name: String): String = getValue(name).jsonPrimitive.content

private val BYTE = Regex("<0x([0-9A-F]{2})>")

private fun withFallback(text: String): ByteArray =
    BYTE.matchEntire(text)?.let { byteArrayOf(it.groupValues[1].toInt(16).toByte()) }
        ?: text.replace('▁', ' ').toByteArray()

/** GPT-2's letters for bytes: printable ones stand for themselves, the others for what comes from 256 on. */
private val BYTE_OF: Map<Char, Byte> = buildMap {
    val printable = ('!'..'~').toList() + ('¡'..'¬') + ('®'..'ÿ')
    for (char in printable) put(char, char.code.toByte())
    val others = (0..255).filter { it.toChar() !in printable }
    others.forEachIndexed { index, byte -> put((256 + index).toChar(), byte.toByte()) }
}

private fun byteLevel(text: String): ByteArray? {
    if (text.any { it !in BYTE_OF }) return null
    return ByteArray(text.length) { BYTE_OF.getValue(text[it]) }
}
