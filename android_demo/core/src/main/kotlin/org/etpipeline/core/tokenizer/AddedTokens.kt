package org.etpipeline.core.tokenizer

/** A token that is found in a text before the model sees it, with what of the text around it goes with it. */
internal class AddedToken(
    val content: String,
    val isSpecial: Boolean,
    val isNormalized: Boolean,
    val isSingleWord: Boolean,
    val stripsLeft: Boolean,
    val stripsRight: Boolean,
)

/** A part of a text: a token that was found, or, if [id] is negative, something for the model. */
internal class Segment(val text: String, val isFirst: Boolean, val id: Int = -1)

/** All added tokens of a tokenizer; they get ids as `tokenizers` gives them, whatever stands in the file. */
internal class AddedTokens(tokens: List<AddedToken>, model: Vocabulary, private val normalizer: Normalizer?) {
    private val ids = LinkedHashMap<String, Int>()
    private val byId = HashMap<Int, AddedToken>()
    private val normalized = HashMap<Int, String>()
    private val special = HashSet<String>()
    private val plainOnes: Finder
    private val normalizedOnes: Finder

    /** Ids are below it. */
    val size: Int

    init {
        var next = model.texts
        for (token in tokens.filter { it.content.isNotEmpty() }) {
            val id = ids[token.content] ?: model.idOf(token.content) ?: next++
            ids[token.content] = id
            byId[id] = token
            if (token.isSpecial) special += token.content
            if (token.isNormalized) normalized[id] = normalizer?.normalize(token.content) ?: token.content
        }
        size = (byId.keys.maxOrNull() ?: -1) + 1
        plainOnes = Finder(byId.filterValues { !it.isNormalized }.mapValues { it.value.content })
        normalizedOnes = Finder(normalized.filterKeys { byId.getValue(it).isNormalized })
    }

    fun idOf(content: String): Int? = ids[content]

    fun isSpecial(id: Int): Boolean = byId[id]?.content in special

    /** What decoding makes a token's text from: one that is looked for in normalized texts is normalized itself. */
    fun textOf(id: Int): String? = byId[id]?.let { if (it.isNormalized) normalized[id] else it.content }

    /** The text in parts: what is a token, and what is left of the rest when it is normalized. */
    fun segments(text: String): List<Segment> = plainOnes.segments(Segment(text, isFirst = true)).flatMap { part ->
        if (part.id >= 0) return@flatMap listOf(part)
        normalizedOnes.segments(Segment(normalizer?.normalize(part.text) ?: part.text, part.isFirst))
    }

    /** Finds texts, of those that begin at the same place the longest. */
    private inner class Finder(texts: Map<Int, String>) {
        private val vocabulary = Vocabulary().also { found ->
            for ((id, text) in texts) if (text.isNotEmpty()) found.add(text, id)
        }
        private val beginnings = texts.values.mapNotNull { it.firstOrNull() }.toSet()

        fun segments(part: Segment): List<Segment> {
            val text = part.text
            val found = mutableListOf<Segment>()
            var done = 0
            fun say(from: Int, to: Int, id: Int) {
                if (from < to) found += Segment(text.substring(from, to), part.isFirst && from == 0, id)
            }
            eachMatch(text) { at, end, id ->
                val token = byId.getValue(id)
                if (token.isSingleWord && !isWord(text, at, end)) return@eachMatch
                val start = if (token.stripsLeft) maxOf(done, leftOf(text, at)) else at
                val stop = if (token.stripsRight) rightOf(text, end) else end
                if (done < start) say(done, start, -1)
                say(start, stop, id)
                done = stop
            }
            if (done < text.length) say(done, text.length, -1)
            return found
        }

        private fun eachMatch(text: String, take: (start: Int, end: Int, id: Int) -> Unit) {
            if (beginnings.isEmpty()) return
            var at = 0
            while (at < text.length) {
                var next = at + 1
                var token = -1
                if (text[at] in beginnings) {
                    vocabulary.eachAt(text, at) { end, id ->
                        next = end
                        token = id
                    }
                }
                if (token >= 0) take(at, next, token)
                at = next
            }
        }
    }
}

private fun isWord(text: String, start: Int, end: Int): Boolean {
    val isBegun = start > 0 && Character.codePointBefore(text, start) in Chars.RUST_WORD
    return !isBegun && (end == text.length || text.codePoint(end) !in Chars.RUST_WORD)
}

private fun leftOf(text: String, at: Int): Int {
    var start = at
    while (start > 0 && text[start - 1].code in Chars.SPACE) start--
    return start
}

private fun rightOf(text: String, at: Int): Int {
    var end = at
    while (end < text.length && text[end].code in Chars.SPACE) end++
    return end
}
