package org.etpipeline.core.grammar

import java.math.BigDecimal
import kotlin.random.Random
import kotlinx.serialization.json.Json
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class GrammarSchemaTest {
    @Test
    fun `ten thousand answers are JSON that fits`() {
        val random = Random(7)
        val samplers = listOf(BYTES, PIECES).map { GrammarSampler(it, random) }
        for ((name, schema) in SCHEMAS) {
            val grammar = Grammar.ofJsonSchema(schema)
            val check = SchemaCheck(schema)
            val answers = HashSet<String>()
            repeat(720) {
                val text = samplers[it % 2].answer(grammar, random.nextInt(1, 120), random.nextFloat())
                assertTrue("$name: $text", check.fits(Json.parseToJsonElement(text)))
                answers += text
            }
            assertTrue("$name: ${answers.size}", answers.size > 100)
        }
    }

    @Test
    fun `a mask holds the tokens that are accepted and can be ended in time`() {
        val random = Random(8)
        for ((name, schema) in SCHEMAS) {
            val grammar = Grammar.ofJsonSchema(schema)
            val taken = mutableListOf<Int>()
            repeat(12) {
                val constraint = grammar.constraint(PIECES).also { taken.forEach(it::accept) }
                val distances = PIECES.tokens.indices.map { token -> distanceAfter(grammar, taken + token) }
                for (left in listOf(Int.MAX_VALUE, constraint.tokensToEnd, constraint.tokensToEnd + 2)) {
                    val expected = distances.indices.filter { token -> distances[token]?.let { it < left } == true }
                    assertEquals("$name after $taken", expected, constraint.mask(left).stream().toArray().toList())
                }
                val options = constraint.mask().stream().toArray()
                if (options.isEmpty()) taken.clear() else taken += options.random(random)
            }
        }
    }

    @Test
    fun `texts that fit are accepted with a space or without`() {
        val grammar = grammarOf(
            """{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {}},
                "c": {"type": "string", "minLength": 2, "maxLength": 3}}, "required": ["a"]}""",
        )
        val fit = listOf(
            """{"a":1}""", """{"a": 1, "b":[]}""", """{"a":0,"b": [1, "x",null, {"k": [[]]}],"c": "üü"}""",
            """{"a":-10, "c":"\n\ud83d\ude00😀"}""", """{"a":1,"b":[1e5,-0.5E+10,"\u0041\\\/"]}""",
        )
        val others = listOf(
            """{}""", """{ "a":1}""", """{"a":1 }""", """{"a":  1}""", """{"a":1.0}""", """{"a":01}""", """{"a":-0}""",
            """{"a":1,}""", """{"b":[],"a":1}""", """{"a":1,"a":1}""", """{"a":1,"c":"a"}""", """{"a":1,"c":"abcd"}""",
            """{"a":1,"b":["\ud83d"]}""", """{"a":1,"b":["\ude00\ud83d"]}""", """{"a":1,"b":["\x"]}""",
            "{\"a\":1,\"b\":[\"\n\"]}", """{"a":1,"d":2}""", """{"a":1000000000000000}""", """{"a":1,"b":[.5]}""",
            """1""",
        )
        for (text in fit) assertTrue(text, isAnswer(grammar, text))
        for (text in others) assertFalse(text, isAnswer(grammar, text))
    }

    @Test
    fun `bytes that are no UTF-8 have no place in a string`() {
        val constraint = grammarOf("""{"type": "string"}""").constraint(BYTES)
        constraint.accept('"'.code)
        val mask = constraint.mask()
        for (byte in (0..0x1F) + (0x80..0xC1) + (0xF5..0xFF)) assertFalse("$byte", mask[byte])
        for (byte in (0x20..0x7F) + (0xC2..0xF4)) assertTrue("$byte", mask[byte])
        constraint.accept(0xED) // 0xED 0xA0 would be a surrogate
        assertFalse(constraint.mask()[0xA0])
        assertFalse(constraint.mask()['"'.code])
    }

    @Test
    fun `ranges of integers are exact`() {
        val random = Random(9)
        repeat(300) {
            val (low, high) = listOf(bound(random), bound(random)).sorted()
            val grammar = grammarOf("""{"type": "integer", "minimum": $low, "maximum": $high}""")
            val near = listOf(low, high).flatMap { (it - 12)..(it + 12) } + List(50) { bound(random) }
            for (number in near) assertEquals("$low..$high: $number", number in low..high, isAnswer(grammar, "$number"))
        }
    }

    @Test
    fun `ranges of numbers are exact`() {
        val random = Random(10)
        repeat(200) {
            val (low, high) = listOf(bound(random) % 1000, bound(random) % 1000).sorted()
            val grammar = grammarOf("""{"type": "number", "minimum": $low, "maximum": $high}""")
            for (end in listOf(low, high)) {
                for (tenth in -25..25) {
                    val number = BigDecimal(end) + BigDecimal(tenth).movePointLeft(1)
                    val isBetween = number >= BigDecimal(low) && number <= BigDecimal(high)
                    assertEquals("$low..$high: $number", isBetween, isAnswer(grammar, "$number"))
                }
            }
        }
    }

    @Test
    fun `an answer ends with the last token at the latest`() {
        for ((name, schema) in SCHEMAS) {
            val grammar = Grammar.ofJsonSchema(schema)
            val fewest = grammar.constraint(BYTES).tokensToEnd
            val error = assertThrows(name, IllegalStateException::class.java) {
                grammar.constraint(BYTES).mask(fewest - 1)
            }
            assertTrue(error.message!!, "$fewest more tokens" in error.message!!)
            val text = GrammarSampler(BYTES, Random(11)).answer(grammar, fewest, patience = 1f)
            assertEquals(name, fewest, text.toByteArray().size)
            assertTrue("$name: $text", SchemaCheck(schema).fits(Json.parseToJsonElement(text)))
        }
    }

    @Test
    fun `levels are bounded`() {
        val tree = Grammar.ofJsonSchema(SCHEMAS.getValue("tree"))
        fun nested(levels: Int) = """{"value":1,"children":[""".repeat(levels) + "]}".repeat(levels)
        assertTrue(isAnswer(tree, nested(MOST_LEVELS)))
        assertFalse(isAnswer(tree, nested(MOST_LEVELS + 1)))
    }

    @Test
    fun `what cannot be held to is refused with its place`() {
        val refused = mapOf(
            """{"type":"object","properties":{"age":{"type":"integer","multipleOf":5}}}""" to
                "\$.properties.age has multipleOf, which cannot be held to",
            """{"type":"array","uniqueItems":true}""" to "\$ has uniqueItems, which cannot be held to",
            """{"type":"array","items":{"not":{}}}""" to "\$.items has not, which cannot be held to",
            """{"type":"object","patternProperties":{}}""" to "\$ has patternProperties, which cannot be held to",
            """{"type":"string","minimum":1}""" to "\$ has minimum, which cannot be held to by string",
            """{"type":"string","pattern":"a","maxLength":3}""" to
                "\$ has maxLength and pattern, which cannot be held to together",
            """{"type":"string","pattern":"(?=a)"}""" to
                "\$.pattern: '(?=a)' has the group (?=a…, which cannot be held to",
            """{"type":"string","format":"ipv6"}""" to "\$ has format ipv6, which cannot be held to",
            """{"type":"number","minimum":0.5}""" to "\$ has the bound 0.5, and only whole ones can be held to",
            """{"type":"number","exclusiveMinimum":0}""" to
                "\$ has exclusiveMinimum, which only an integer can be held to",
            """{"type":"integer","minimum":5,"maximum":4}""" to "\$ has bounds with nothing between them",
            """{"anyOf":[{"type":"null"},{"type":"what"}]}""" to "\$.anyOf[1] has type what, which is unknown",
            """{"anyOf":[{"type":"null"}],"type":"null"}""" to "\$ has type, which cannot be held to beside anyOf",
            """{"enum":["a"],"type":"integer"}""" to "\$.enum has no value of its type",
            """{"${'$'}ref":"other.json"}""" to "\$ has \$ref to other.json, which is not within the schema",
            """{"${'$'}ref":"#/${'$'}defs/a"}""" to "\$ has \$ref to #/\$defs/a, which is not there",
            """{"${'$'}ref":"#"}""" to "no answer fits it within 16 levels",
            """{"properties":{"a":{"${'$'}ref":"#"}},"required":["a"]}""" to "no answer fits it within 16 levels",
            """{"properties":{"a":false}}""" to "\$.properties.a is false, which cannot be held to",
            """{"properties":{},"required":["b"]}""" to "\$ has required b, which is no property of it",
            """{"type":"array","minItems":2,"maxItems":1}""" to "\$ has minItems 2 and maxItems 1, which nothing fits",
            """{"type":"array","prefixItems":[{}],"minItems":2}""" to
                "\$ has minItems 2, and there are 1 items only",
            """{"type":"array","minItems":"2"}""" to "\$ has minItems, which is no count",
            """{"allOf":[{"type":"string"},{"type":"null"}]}""" to "\$.allOf has type twice, which cannot be merged",
            """{"allOf":[{"type":"string"},{"enum":[""]}]}""" to
                "\$.allOf has enum, which cannot be merged with the rest",
            """{"type":"object","${'$'}defs":{"a":{"not":{}}},"properties":{"b":{"${'$'}ref":"#/${'$'}defs/a"}}}""" to
                "\$.\$defs.a has not, which cannot be held to",
            "3" to "\$ is 3, which cannot be held to",
        )
        for ((schema, sentence) in refused) {
            val error = assertThrows(schema, GrammarException::class.java) { grammarOf(schema) }
            assertEquals("schema: $sentence", error.message)
        }
    }

    private fun grammarOf(schema: String) = Grammar.ofJsonSchema(Json.parseToJsonElement(schema))

    private fun isAnswer(grammar: Grammar, text: String): Boolean {
        val constraint = grammar.constraint(BYTES)
        val isWhole = text.toByteArray().all { runCatching { constraint.accept(it.toInt() and 0xFF) }.isSuccess }
        return isWhole && constraint.mayEnd
    }

    /** The fewest bytes to the end after these tokens; null: they are not allowed. */
    private fun distanceAfter(grammar: Grammar, tokens: List<Int>): Int? {
        val constraint = grammar.constraint(PIECES)
        return constraint.tokensToEnd.takeIf { tokens.all { runCatching { constraint.accept(it) }.isSuccess } }
            ?.let { constraint.tokensToEnd }
    }

    private fun bound(random: Random): Long =
        random.nextLong(-1_000_000, 1_000_000) / listOf(1, 10, 100, 1000, 100_000).random(random)
}
