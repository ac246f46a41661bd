package org.etpipeline.core.tokenizer

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.intOrNull

/**
 * A part of a tokenizer's file, such as one normalizer.
 *
 * @property path where in the file it stands, for messages.
 */
internal class JsonPart(element: JsonElement, val path: String) {
    private val content: JsonObject = element as? JsonObject ?: bad("is no object")

    val type: String get() = text("type")

    fun has(name: String): Boolean = (content[name] ?: JsonNull) !is JsonNull

    fun text(name: String): String = textOrNull(name) ?: bad("has no text '$name'")

    fun textOrNull(name: String): String? =
        if (has(name)) primitive(name) { if (isString) this.content else null } else null

    fun flag(name: String, otherwise: Boolean? = null): Boolean =
        if (has(name)) primitive(name) { booleanOrNull } else otherwise ?: bad("has no '$name'")

    fun isZero(name: String): Boolean = (content[name] as? JsonPrimitive)?.doubleOrNull == 0.0

    fun number(name: String): Int = if (has(name)) primitive(name) { intOrNull } else bad("has no number '$name'")

    fun part(name: String): JsonPart = JsonPart(content[name] ?: bad("has no '$name'"), "$path.$name")

    fun parts(name: String): List<JsonPart> = list(name).mapIndexed { at, item -> JsonPart(item, "$path.$name.$at") }

    fun list(name: String): JsonArray = content[name] as? JsonArray ?: bad("has no list '$name'")

    /** Refuses fields that are not among these: they would mean something. */
    fun only(vararg names: String): JsonPart {
        val others = content.keys - names.toSet() - "type"
        if (others.isNotEmpty()) bad("has '${others.first()}', which is not known here")
        return this
    }

    fun bad(what: String): Nothing = throw IllegalArgumentException("$path $what")

    /** What [read] makes of this part; its problems are told with where they are. */
    fun <T> reading(read: () -> T): T {
        try {
            return read()
        } catch (error: IllegalArgumentException) {
            val message = error.message.orEmpty()
            throw if (message.startsWith(path)) error else IllegalArgumentException("$path: $message", error)
        }
    }

    private fun <T : Any> primitive(name: String, take: JsonPrimitive.() -> T?): T =
        (content[name] as? JsonPrimitive)?.take() ?: bad("has a '$name' of another kind")
}
