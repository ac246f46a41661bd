package org.etpipeline.core.grammar

import java.math.BigDecimal
import java.math.RoundingMode.FLOOR
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.intOrNull

private val UNMERGEABLE =
    setOf("\$ref", "allOf", "anyOf", "oneOf", "enum", "const", "additionalProperties", "prefixItems")

internal fun refuse(what: String): Nothing = throw GrammarException("schema: $what")

/** The keywords of a schema at [path], those without a meaning left out. */
internal class SchemaWords(val map: Map<String, JsonElement>, val path: String) {
    operator fun contains(name: String): Boolean = name in map

    /** Refuses any keyword but these; [place] says what it would have to go with. */
    fun allow(place: String, names: Collection<String>) {
        val other = map.keys.firstOrNull { it !in names } ?: return
        refuse("$path has $other, which cannot be held to" + if (other in KNOWN) " $place" else "")
    }

    fun text(name: String): String? = map[name]?.let { value ->
        (value as? JsonPrimitive)?.takeIf { it.isString }?.content ?: refuse("$path has $name, which is no text")
    }

    fun array(name: String): List<JsonElement>? =
        map[name]?.let { it as? JsonArray ?: refuse("$path has $name, which is no list") }

    fun texts(name: String): List<String>? = array(name)?.map { item ->
        (item as? JsonPrimitive)?.takeIf { it.isString }?.content
            ?: refuse("$path has $name, which is no list of texts")
    }

    fun record(name: String): JsonObject? =
        map[name]?.let { it as? JsonObject ?: refuse("$path has $name, which is no object") }

    fun number(name: String): BigDecimal? = map[name]?.let { value ->
        (value as? JsonPrimitive)?.takeIf { !it.isString }?.content?.toBigDecimalOrNull()
            ?: refuse("$path has $name, which is no number")
    }

    /** The types that are named; null: none is. */
    fun types(): List<String>? = if (map["type"] is JsonArray) texts("type") else text("type")?.let(::listOf)

    /** How many there have to be and may be; null: as many as one likes. */
    fun bounds(least: String, most: String): Pair<Int, Int?> {
        val (min, max) = listOf(least, most).map { name ->
            map[name]?.let { value ->
                (value as? JsonPrimitive)?.takeIf { !it.isString }?.intOrNull?.takeIf { it >= 0 }
                    ?: refuse("$path has $name, which is no count")
            }
        }
        if (max != null && max < (min ?: 0)) refuse("$path has $least $min and $most $max, which nothing fits")
        return (min ?: 0) to max
    }

    /** The keywords of all parts of `allOf` in one, if they do not touch each other. */
    fun merged(): JsonObject {
        val parts = array("allOf").orEmpty()
            .map { it as? JsonObject ?: refuse("$path.allOf has $it, which cannot be merged") }
        val beside = map - "allOf"
        if (parts.size == 1 && beside.isEmpty()) return parts.single()
        val merged = HashMap<String, JsonElement>()
        for (part in parts + JsonObject(beside)) {
            for ((name, value) in part) {
                if (name in UNMERGEABLE) refuse("$path.allOf has $name, which cannot be merged with the rest")
                merged[name] = merged[name]?.let { merge(name, it, value) } ?: value
            }
        }
        return JsonObject(merged)
    }

    private fun merge(name: String, one: JsonElement, other: JsonElement): JsonElement {
        if (one == other || name in SAYS_NOTHING) return one
        if (name == "required" && one is JsonArray && other is JsonArray) return JsonArray((one + other).distinct())
        val isApart = name == "properties" && one is JsonObject && other is JsonObject && one.keys.none { it in other }
        if (!isApart) refuse("$path.allOf has $name twice, which cannot be merged")
        return JsonObject(one + other)
    }
}

internal val BigDecimal.isWhole: Boolean get() = stripTrailingZeros().scale() <= 0

/** The next integer. */
internal fun above(number: BigDecimal): BigDecimal = number.setScale(0, FLOOR) + BigDecimal.ONE

/** The types that a schema may call a value. */
internal fun typesOf(value: JsonElement): Set<String> =
    when (value) {
        is JsonNull -> setOf("null")
        is JsonArray -> setOf("array")
        is JsonObject -> setOf("object")
        is JsonPrimitive -> when {
            value.isString -> setOf("string")
            value.booleanOrNull != null -> setOf("boolean")
            value.content.toBigDecimal().isWhole -> setOf("number", "integer")
            else -> setOf("number")
        }
    }
