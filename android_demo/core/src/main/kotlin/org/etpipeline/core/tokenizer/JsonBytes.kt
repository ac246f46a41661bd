package org.etpipeline.core.tokenizer

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement

private const val MOST_DEPTH = 64

/**
 * JSON that is walked over where it lies.
 *
 * A tokenizer's file has a million strings, which as a tree of objects would take hundreds of megabytes. So its long
 * lists are gone through value by value, and only the short parts become trees.
 *
 * @throws IllegalArgumentException from every function, where the text is no JSON.
 */
internal class JsonBytes(private val bytes: ByteArray) {
    /** Where the outermost value begins. */
    val start: Int get() = skipSpace(0)

    /** Where the value of each member of the object at [at] begins. */
    fun members(at: Int): Map<String, Int> {
        val found = mutableMapOf<String, Int>()
        eachMember(at) { name, value -> found[name.toString()] = value }
        return found
    }

    /** The value at [at] as a tree. */
    fun tree(at: Int): JsonElement {
        try {
            return Json.parseToJsonElement(String(bytes, at, end(at) - at, Charsets.UTF_8))
        } catch (error: SerializationException) {
            throw IllegalArgumentException(error.message, error)
        }
    }

    /** Whether the value at [at] is a text. */
    fun isText(at: Int): Boolean = byteAt(at) == '"'

    /** Puts the text at [at] into [into], in place of what is there; returns where it ends. */
    fun text(at: Int, into: StringBuilder): Int {
        require(isText(at)) { "a text is missing at byte $at" }
        into.setLength(0)
        var from = at + 1
        while (true) {
            val next = byteAt(from)
            when {
                next == '"' -> return from + 1
                next == '\\' -> from = escape(from + 1, into)
                next < '\u0080' -> {
                    into.append(next)
                    from++
                }
                else -> from = beyondAscii(from, into)
            }
        }
    }

    /** The number at [at]. */
    fun number(at: Int): String = String(bytes, at, end(at) - at, Charsets.US_ASCII)

    /** Calls [take] with the name of each member of the object at [at] and where its value begins. */
    inline fun eachMember(at: Int, take: (name: StringBuilder, value: Int) -> Unit) {
        val name = StringBuilder()
        eachItem(at, '{', '}') { item ->
            val colon = skipSpace(text(item, name))
            require(byteAt(colon) == ':') { "a colon is missing at byte $colon" }
            val value = skipSpace(colon + 1)
            take(name, value)
            value
        }
    }

    /** Calls [take] with where each element of the list at [at] begins. */
    inline fun eachElement(at: Int, take: (Int) -> Unit) = eachItem(at, '[', ']') { item ->
        take(item)
        item
    }

    /** Calls [take] with where each item begins, and is told where the item's value does. */
    private inline fun eachItem(at: Int, open: Char, close: Char, take: (Int) -> Int) {
        require(byteAt(at) == open) { "'$open' is missing at byte $at" }
        var from = skipSpace(at + 1)
        if (byteAt(from) == close) return
        while (true) {
            from = skipSpace(end(take(from)))
            val next = byteAt(from)
            if (next == close) return
            require(next == ',') { "a comma is missing at byte $from" }
            from = skipSpace(from + 1)
        }
    }

    /** Where the value at [at] ends. */
    private fun end(at: Int): Int = when (byteAt(at)) {
        '"' -> endOfText(at)
        '{', '[' -> endOfNest(at)
        else -> endOfWord(at)
    }

    private fun endOfText(at: Int): Int {
        var from = at + 1
        while (byteAt(from) != '"') from += if (byteAt(from) == '\\') 2 else 1
        return from + 1
    }

    private fun endOfNest(at: Int): Int {
        var depth = 0
        var from = at
        do {
            when (byteAt(from)) {
                '{', '[' -> depth++
                '}', ']' -> depth--
                '"' -> from = endOfText(from) - 1
                else -> Unit
            }
            require(depth < MOST_DEPTH) { "it is nested too deeply" }
            from++
        } while (depth > 0)
        return from
    }

    private fun endOfWord(at: Int): Int {
        var from = at
        while (from < bytes.size && bytes[from].toInt().toChar() !in ",]} \t\r\n") from++
        require(from > at) { "a value is missing at byte $at" }
        return from
    }

    private fun skipSpace(at: Int): Int {
        var from = at
        while (byteAt(from) in " \t\r\n") from++
        return from
    }

    private fun byteAt(at: Int): Char {
        require(at < bytes.size) { "it ends too early" }
        return (bytes[at].toInt() and 0xFF).toChar()
    }

    private fun escape(at: Int, into: StringBuilder): Int {
        when (val kind = byteAt(at)) {
            '"', '\\', '/' -> into.append(kind)
            'b' -> into.append('\b')
            'f' -> into.append('\u000C')
            'n' -> into.append('\n')
            'r' -> into.append('\r')
            't' -> into.append('\t')
            'u' -> {
                require(at + 5 <= bytes.size) { "it ends too early" }
                val code = String(bytes, at + 1, 4, Charsets.US_ASCII).toIntOrNull(16)
                into.append(requireNotNull(code) { "an escape is wrong at byte $at" }.toChar())
                return at + 5
            }
            else -> throw IllegalArgumentException("an escape is wrong at byte $at")
        }
        return at + 1
    }

    private fun beyondAscii(at: Int, into: StringBuilder): Int {
        var end = at
        while (byteAt(end) >= '\u0080') end++
        into.append(String(bytes, at, end - at, Charsets.UTF_8))
        return end
    }
}
