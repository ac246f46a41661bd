package org.etpipeline.core.tokenizer

/** A growing list of token ids. */
internal class Ids {
    private var content = IntArray(64)

    var size = 0
        private set

    fun add(id: Int) {
        if (size == content.size) content = content.copyOf(size * 2)
        content[size++] = id
    }

    fun addAll(ids: IntArray) {
        for (id in ids) add(id)
    }

    fun toArray(from: Int = 0): IntArray = content.copyOfRange(from, size)
}
