package org.etpipeline.core.grammar

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull

/** Keywords that nothing has to be held to. */
internal val SAYS_NOTHING = setOf(
    "title", "description", "default", "examples", "\$comment", "\$schema", "\$id", "\$defs", "definitions",
    "deprecated", "readOnly", "writeOnly",
)
private val STRING_WORDS = setOf("minLength", "maxLength", "pattern", "format")
private val NUMBER_WORDS = setOf("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
private val ARRAY_WORDS = setOf("items", "prefixItems", "minItems", "maxItems")
private val OBJECT_WORDS = setOf("properties", "required", "additionalProperties")
private val WORDS_OF_TYPE = mapOf(
    "object" to OBJECT_WORDS,
    "array" to ARRAY_WORDS,
    "string" to STRING_WORDS,
    "number" to NUMBER_WORDS,
    "integer" to NUMBER_WORDS,
    "boolean" to emptySet(),
    "null" to emptySet(),
)
private val SIMPLE = listOf("true", "false", "null")
internal val KNOWN =
    WORDS_OF_TYPE.values.flatten().toSet() + setOf("type", "\$ref", "allOf", "anyOf", "oneOf", "const", "enum")

/** Reads JSON schemas. What it does not know is refused with the keyword and where it stands. */
internal class SchemaReader(private val root: JsonElement) {
    private val rules = HashMap<String, Expression.Rule>()
    private val texts = HashMap<String, Expression>() // so that the same text is one automaton
    private val anything: Expression by lazy(::makeAnything)

    fun read(): Expression = read(root, "$")

    private fun read(schema: JsonElement, path: String): Expression {
        if (schema is JsonPrimitive && schema.booleanOrNull == true) return anything
        if (schema !is JsonObject) refuse("$path is $schema, which cannot be held to")
        val words = SchemaWords(schema.filterKeys { it !in SAYS_NOTHING }, path)
        return when {
            words.map.isEmpty() -> anything
            "\$ref" in words -> reference(words)
            "allOf" in words -> read(words.merged(), path)
            "anyOf" in words -> options(words, "anyOf")
            "oneOf" in words -> options(words, "oneOf")
            "const" in words -> values(words, "const", listOf(words.map.getValue("const")))
            "enum" in words -> values(words, "enum", words.array("enum").orEmpty())
            else -> ofTypes(words)
        }
    }

    private fun reference(words: SchemaWords): Expression {
        words.allow("beside \$ref", setOf("\$ref"))
        val pointer = words.text("\$ref").orEmpty()
        rules[pointer]?.let { return it }
        if (pointer != "#" && !pointer.startsWith("#/")) {
            refuse("${words.path} has \$ref to $pointer, which is not within the schema")
        }
        val target = pointer.split('/').drop(1).fold(root as JsonElement?) { at, name ->
            val key = name.replace("~1", "/").replace("~0", "~")
            (at as? JsonObject)?.get(key) ?: (at as? JsonArray)?.getOrNull(key.toIntOrNull() ?: -1)
        }
        if (target == null) refuse("${words.path} has \$ref to $pointer, which is not there")
        val rule = Expression.Rule().also { rules[pointer] = it }
        rule.body = read(target, pointer.replace('/', '.').replaceFirst('#', '$'))
        return rule
    }

    private fun options(words: SchemaWords, name: String): Expression {
        words.allow("beside $name", setOf(name))
        val options = words.array(name).orEmpty()
        if (options.isEmpty()) refuse("${words.path}.$name is empty")
        return Expression.choice(options.mapIndexed { index, option -> read(option, "${words.path}.$name[$index]") })
    }

    private fun values(words: SchemaWords, name: String, values: List<JsonElement>): Expression {
        words.allow("beside $name", setOf(name, "type"))
        val types = words.types()
        val kept = values.filter { value -> types == null || typesOf(value).any { it in types } }
        if (kept.isEmpty()) refuse("${words.path}.$name has no value of its type")
        val (simple, compound) = kept.partition { it is JsonPrimitive }
        val texts = simple.map { Pattern.text(it.toString()) } // in one automaton, however many they are
        val first = if (texts.isEmpty()) emptyList() else listOf(Expression.Terminal(Pattern.Choice(texts)))
        return Expression.choice(first + compound.map(::value))
    }

    private fun value(value: JsonElement): Expression =
        when (value) {
            is JsonArray -> Expression.sequence(text("["), commaList(value.map(::value)), text("]"))
            is JsonObject -> {
                val members = value.map { (name, each) -> Expression.sequence(nameOf(Pattern.text(name)), value(each)) }
                Expression.sequence(text("{"), commaList(members), text("}"))
            }
            else -> text(value.toString())
        }

    private fun ofTypes(words: SchemaWords): Expression {
        // Without a type the keywords say which: what they say nothing of is left out.
        val types = words.types() ?: WORDS_OF_TYPE.keys.filter { type ->
            type != "integer" && WORDS_OF_TYPE.getValue(type).any { it in words }
        }
        for (type in types) if (type !in WORDS_OF_TYPE) refuse("${words.path} has type $type, which is unknown")
        words.allow("by ${types.joinToString(" or ")}", types.flatMap(WORDS_OF_TYPE::getValue) + "type")
        return Expression.choice(types.map { ofType(it, words) })
    }

    private fun ofType(type: String, words: SchemaWords): Expression =
        when (type) {
            "object" -> ofObject(words)
            "array" -> ofArray(words)
            "string" -> ofString(words)
            "number", "integer" -> ofNumber(words, isInteger = type == "integer")
            "boolean" -> Expression.Choice(listOf(text("true"), text("false")))
            else -> text("null")
        }

    private fun ofString(words: SchemaWords): Expression {
        val quote = text("\"")
        if ("pattern" !in words && "format" !in words.map) {
            val (min, max) = words.bounds("minLength", "maxLength")
            return Expression.sequence(quote, Expression.StringRest(min, max))
        }
        val present = STRING_WORDS.filter { it in words }
        if (present.size > 1) {
            refuse("${words.path} has ${present.joinToString(" and ")}, which cannot be held to together")
        }
        val format = words.text("format")
        val body = when {
            format == null -> readPattern(words)
            else -> FORMATS[format] ?: refuse("${words.path} has format $format, which cannot be held to")
        }
        return Expression.sequence(quote, stringRest(body))
    }

    private fun stringRest(body: Pattern): Expression {
        // Many characters of one kind are better counted than copied.
        val kind = ((body as? Pattern.Repeat)?.body as? Pattern.Characters)?.inJson()
        if (kind != null) return Expression.StringRest(body.min, body.max, Nfa(kind))
        return Expression.Terminal(Pattern.sequence(body.inJson(), Pattern.text("\"")))
    }

    private fun readPattern(words: SchemaWords): Pattern =
        try {
            readSearch(words.text("pattern").orEmpty())
        } catch (error: GrammarException) {
            refuse("${words.path}.${error.message}")
        }

    private fun ofNumber(words: SchemaWords, isInteger: Boolean): Expression {
        var min = words.number("minimum")
        var max = words.number("maximum")
        if (isInteger) {
            min = listOfNotNull(min, words.number("exclusiveMinimum")?.let(::above)).maxOrNull()
            max = listOfNotNull(max, words.number("exclusiveMaximum")?.let { -above(-it) }).minOrNull()
        } else {
            for (name in listOf("exclusiveMinimum", "exclusiveMaximum")) {
                if (name in words) refuse("${words.path} has $name, which only an integer can be held to")
            }
            for (bound in listOfNotNull(min, max)) {
                if (!bound.isWhole) refuse("${words.path} has the bound $bound, and only whole ones can be held to")
            }
            if (min == null && max == null) return Expression.Terminal(NUMBER)
        }
        val pattern = if (isInteger) integersBetween(min, max) else numbersBetween(min, max)
        return Expression.Terminal(pattern ?: refuse("${words.path} has bounds with nothing between them"))
    }

    private fun ofArray(words: SchemaWords): Expression {
        val (min, max) = words.bounds("minItems", "maxItems")
        val first = words.array("prefixItems").orEmpty().mapIndexed { index, each ->
            read(each, "${words.path}.prefixItems[$index]")
        }
        val items = words.map["items"]
        val isClosed = (items is JsonPrimitive && items.booleanOrNull == false) || (items == null && first.isNotEmpty())
        val other = if (isClosed) null else items?.let { read(it, "${words.path}.items") } ?: anything
        if (other == null && min > first.size) {
            refuse("${words.path} has minItems $min, and there are ${first.size} items only")
        }
        return Expression.sequence(text("["), arrayInside(first, other, min, max), text("]"))
    }

    private fun ofObject(words: SchemaWords): Expression {
        val properties = words.record("properties")
        val required = words.texts("required").orEmpty()
        for (name in required) {
            if (name !in properties.orEmpty()) refuse("${words.path} has required $name, which is no property of it")
        }
        val members = properties.orEmpty().map { (name, schema) ->
            val value = read(schema, "${words.path}.properties.$name")
            Member(Expression.sequence(nameOf(Pattern.text(name)), value), name in required)
        }
        val extra = extraValue(words, isOpen = properties == null)?.let { value ->
            Expression.sequence(nameOf(Pattern.allBut(properties.orEmpty().keys.toList())), value)
        }
        return Expression.sequence(text("{"), objectInside(members, extra), text("}"))
    }

    /** Of the properties that are not listed; null: there are none. */
    private fun extraValue(words: SchemaWords, isOpen: Boolean): Expression? {
        val schema = words.map["additionalProperties"] ?: return if (isOpen) anything else null
        if (schema is JsonPrimitive && schema.booleanOrNull == false) return null
        return read(schema, "${words.path}.additionalProperties")
    }

    /** Any JSON. */
    private fun makeAnything(): Expression {
        val rule = Expression.Rule()
        val string = Expression.sequence(text("\""), Expression.StringRest(0, null))
        val member = Expression.sequence(nameOf(Pattern.ANYTHING), rule)
        val compound = listOf(
            Expression.sequence(text("["), arrayInside(emptyList(), rule, 0, null), text("]")),
            Expression.sequence(text("{"), objectInside(emptyList(), member), text("}")),
        )
        rule.body = Expression.Choice(compound + string + Expression.Terminal(NUMBER) + SIMPLE.map(::text))
        return rule
    }

    private fun text(text: String): Expression = texts.getOrPut(text) { Expression.text(text) }
}
