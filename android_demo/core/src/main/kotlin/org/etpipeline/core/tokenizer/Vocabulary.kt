package org.etpipeline.core.tokenizer

private const val SLOTS = 1 shl 12
private const val MOST_IDS = 1 shl 24
private const val FREE = -1
private const val HASH = 31

/**
 * Texts with ids, each way: all texts in one array, because a vocabulary of a quarter of a million strings would take
 * several times their length.
 */
internal class Vocabulary {
    private var chars = CharArray(1 shl 14)
    private var used = 0
    private var bounds = IntArray(1 shl 11) // of each id where its text begins and ends; 0 and 0: no such id
    private var slots = IntArray(SLOTS) { FREE } // ids by their text's hash
    private var count = 0

    /** Ids are below it. */
    var size = 0
        private set

    /** How many texts there are. */
    var texts = 0
        private set

    /** The most UTF-16 units of a text. */
    var longest = 0
        private set

    /** Adds a text, or gives one that is there another id. */
    fun add(text: CharSequence, id: Int) {
        require(id >= 0) { "an id is negative" }
        val end = used + text.length + 1 // one more: no end is 0, even of an empty text
        if (end > chars.size) chars = chars.copyOf(maxOf(end, chars.size * 2))
        for (at in text.indices) chars[used + at] = text[at]
        if (2 * id >= bounds.size) grow(id)
        bounds[2 * id] = used
        bounds[2 * id + 1] = end
        used = end
        size = maxOf(size, id + 1)
        longest = maxOf(longest, text.length)
        if (2 * count >= slots.size) rehash()
        put(id, isNew = true)
    }

    /** The id of a text; null if there is none. */
    fun idOf(text: CharSequence): Int? = find(text, 0, text.length).takeIf { it >= 0 }

    /** The id of the text from [from] to [to]; -1 if there is none. */
    fun find(text: CharSequence, from: Int, to: Int): Int {
        var hash = 0
        for (at in from until to) hash = hash * HASH + text[at].code
        return find(text, from, to, hash)
    }

    /** Calls [take] with the end and id of every text of the vocabulary that begins at [from], the shortest first. */
    inline fun eachAt(text: CharSequence, from: Int, take: (end: Int, id: Int) -> Unit) {
        var hash = 0
        for (at in from until minOf(text.length, from + longest)) {
            hash = hash * HASH + text[at].code
            val id = find(text, from, at + 1, hash)
            if (id >= 0) take(at + 1, id)
        }
    }

    /** The text of an id; null if there is no such id. */
    fun textOf(id: Int): String? {
        if (id !in 0 until size || bounds[2 * id + 1] == 0) return null
        return String(chars, bounds[2 * id], bounds[2 * id + 1] - 1 - bounds[2 * id])
    }

    private fun find(text: CharSequence, from: Int, to: Int, hash: Int): Int {
        var slot = slotOf(hash)
        while (slots[slot] != FREE) {
            val id = slots[slot]
            if (isText(id, text, from, to)) return id
            slot = (slot + 1) and (slots.size - 1)
        }
        return FREE
    }

    private fun isText(id: Int, text: CharSequence, from: Int, to: Int): Boolean {
        val start = bounds[2 * id]
        if (bounds[2 * id + 1] - 1 - start != to - from) return false
        for (at in from until to) if (chars[start + at - from] != text[at]) return false
        return true
    }

    private fun put(id: Int, isNew: Boolean) {
        val text = textOf(id).orEmpty()
        var slot = slotOf(text.hashCode()) // which is the same sum
        while (slots[slot] != FREE) {
            if (isNew && isText(slots[slot], text, 0, text.length)) {
                slots[slot] = id
                return
            }
            slot = (slot + 1) and (slots.size - 1)
        }
        slots[slot] = id
        count++
        if (isNew) texts++
    }

    private fun rehash() {
        val old = slots
        slots = IntArray(old.size * 2) { FREE }
        count = 0
        for (id in old) if (id != FREE) put(id, isNew = false)
    }

    private fun grow(id: Int) {
        require(id < MOST_IDS) { "the id $id is too large" }
        bounds = bounds.copyOf(maxOf(2 * id + 2, bounds.size * 2))
    }

    private fun slotOf(hash: Int): Int = (hash xor (hash ushr 16)) * -0x61c88647 ushr 8 and (slots.size - 1)
}
