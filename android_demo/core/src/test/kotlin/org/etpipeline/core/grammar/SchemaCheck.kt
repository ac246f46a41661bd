package org.etpipeline.core.grammar

import java.math.BigDecimal
import java.time.LocalDate
import java.time.OffsetDateTime
import java.time.OffsetTime
import java.util.UUID
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.int

private val JSON_NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
private val EMAIL = Regex("[^@ ]+@[^@ .]+(\\.[^@ .]+)+")

/** A validator that has nothing in common with the grammars: whether a value fits a schema. */
internal class SchemaCheck(private val root: JsonElement) {
    fun fits(value: JsonElement, schema: JsonElement = root): Boolean {
        if (schema is JsonPrimitive) return schema.booleanOrNull == true
        return (schema as JsonObject).all { (name, word) -> fits(value, name, word, schema) }
    }

    private fun fits(value: JsonElement, name: String, word: JsonElement, schema: JsonObject): Boolean =
        when (name) {
            "\$ref" -> fits(value, find((word as JsonPrimitive).content))
            "type" -> (word as? JsonArray ?: listOf(word)).any { isOf(value, (it as JsonPrimitive).content) }
            "enum" -> value in (word as JsonArray)
            "const" -> value == word
            "anyOf" -> (word as JsonArray).any { fits(value, it) }
            "oneOf" -> (word as JsonArray).count { fits(value, it) } == 1
            "allOf" -> (word as JsonArray).all { fits(value, it) }
            "properties", "required", "additionalProperties" ->
                value !is JsonObject || fitsObject(value, name, word, schema)
            "items", "prefixItems", "minItems", "maxItems" ->
                value !is JsonArray || fitsArray(value, name, word, schema)
            "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum" -> fitsNumber(value, name, word)
            "minLength", "maxLength", "pattern", "format" -> fitsString(value, name, word as JsonPrimitive)
            "title", "description", "\$defs" -> true
            else -> error(name)
        }

    private fun find(pointer: String): JsonElement =
        pointer.split('/').drop(1).fold(root) { at, name -> (at as JsonObject).getValue(name) }

    private fun isOf(value: JsonElement, type: String): Boolean =
        when (type) {
            "object" -> value is JsonObject
            "array" -> value is JsonArray
            "null" -> value is JsonNull
            "string" -> value is JsonPrimitive && value.isString
            "boolean" -> value is JsonPrimitive && value !is JsonNull && !value.isString && value.booleanOrNull != null
            "integer" -> number(value)?.stripTrailingZeros()?.let { it.scale() <= 0 } == true
            else -> number(value) != null
        }

    private fun number(value: JsonElement): BigDecimal? =
        (value as? JsonPrimitive)?.takeIf { !it.isString && JSON_NUMBER.matches(it.content) }?.content?.toBigDecimal()

    private fun fitsObject(value: JsonObject, name: String, word: JsonElement, schema: JsonObject): Boolean {
        val properties = schema["properties"] as? JsonObject ?: emptyMap()
        return when (name) {
            "required" -> (word as JsonArray).all { (it as JsonPrimitive).content in value }
            "properties" -> properties.all { (key, each) -> key !in value || fits(value.getValue(key), each) }
            else -> value.all { (key, each) -> key in properties || fits(each, word) }
        }
    }

    private fun fitsArray(value: JsonArray, name: String, word: JsonElement, schema: JsonObject): Boolean =
        when (name) {
            "minItems" -> value.size >= (word as JsonPrimitive).int
            "maxItems" -> value.size <= (word as JsonPrimitive).int
            "prefixItems" -> value.zip(word as JsonArray).all { (item, each) -> fits(item, each) }
            else -> value.drop((schema["prefixItems"] as? JsonArray)?.size ?: 0).all { fits(it, word) }
        }

    private fun fitsNumber(value: JsonElement, name: String, word: JsonElement): Boolean {
        val order = (number(value) ?: return true).compareTo((word as JsonPrimitive).content.toBigDecimal())
        return when (name) {
            "minimum" -> order >= 0
            "maximum" -> order <= 0
            "exclusiveMinimum" -> order > 0
            else -> order < 0
        }
    }

    private fun fitsString(value: JsonElement, name: String, word: JsonPrimitive): Boolean {
        val text = (value as? JsonPrimitive)?.takeIf { it.isString }?.content ?: return true
        return when (name) {
            "minLength" -> text.codePointCount(0, text.length) >= word.int
            "maxLength" -> text.codePointCount(0, text.length) <= word.int
            "pattern" -> Regex(word.content).containsMatchIn(text)
            else -> runCatching { fitsFormat(text, word.content) }.getOrDefault(false)
        }
    }

    private fun fitsFormat(text: String, format: String): Boolean =
        when (format) {
            "date" -> LocalDate.parse(text).year in 1..9999
            "date-time" -> OffsetDateTime.parse(text).year in 1..9999
            "time" -> OffsetTime.parse(text) != null
            "uuid" -> UUID.fromString(text).toString() == text
            "email" -> EMAIL.matches(text)
            else -> error(format)
        }
}
