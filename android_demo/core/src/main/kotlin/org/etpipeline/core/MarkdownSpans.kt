package org.etpipeline.core

/** Bold, italic and code within one block: nothing begins on one side of an empty line and ends on the other. */
internal fun readSpans(text: String, isGrowing: Boolean): List<Span> {
    val spans = mutableListOf<Span>()
    val parts = text.split("\n\n")
    for ((at, part) in parts.withIndex()) {
        if (at > 0) spans.put("\n\n", Span(""))
        SpanReader(part, isGrowing && at == parts.lastIndex, spans).read()
    }
    return spans
}

private const val MARKS = "*_`\\"
private const val ESCAPED = "\\`*_{}[]<>()#+-.!~|"

/** Puts text behind the others; what looks alike is one span. */
private fun MutableList<Span>.put(part: String, style: Span) {
    if (part.isEmpty()) return
    val last = lastOrNull()
    if (last != null && last.copy(text = "") == style.copy(text = "")) {
        this[lastIndex] = last.copy(text = last.text + part)
    } else {
        this += style.copy(text = part)
    }
}

private class SpanReader(
    private val text: String,
    private val isGrowing: Boolean,
    private val spans: MutableList<Span>,
) {
    /** Code from its first mark to [end], behind its last; not [closes]: to the end of a text that grows. */
    private class Code(val end: Int, val closes: Boolean)

    private val codes = findCodes()
    private val unclosed = mutableSetOf<Pair<String, Int>>() // marks, and the place up to which they close nowhere

    fun read() = read(0, text.length, Span(""))

    private fun read(from: Int, to: Int, style: Span) {
        var at = from
        while (at < to) {
            val letter = text[at]
            val code = if (letter == '`') codes[at] else null
            at = when {
                code != null -> code(at, code, style)
                isEscape(at) -> (at + 2).also { spans.put(text.substring(at + 1, it), style) }
                letter == '*' || letter == '_' -> marked(at, to, style)
                else -> {
                    val next = (at + 1 until to).firstOrNull { text[it] in MARKS } ?: to
                    spans.put(text.substring(at, next), style)
                    next
                }
            }
        }
    }

    private fun code(at: Int, code: Code, style: Span): Int {
        val length = runAt(at)
        var words = text.substring(at + length, if (code.closes) code.end - length else code.end).replace('\n', ' ')
        if (!code.closes) words = words.trimEnd('`') // they may become the closing marks
        if (words.length > 2 && words.first() == ' ' && words.last() == ' ') words = words.drop(1).dropLast(1)
        spans.put(words, style.copy(code = true))
        return code.end
    }

    /** Bold or italic text, or the marks as they stand. */
    private fun marked(at: Int, to: Int, style: Span): Int {
        val length = minOf(runAt(at), to - at) // the rest closes what this is within
        val end = at + length
        if (isGrowing && end == text.length) return end // what they mark, or more of them, may follow
        val mark = text.substring(at, end)
        val inner = style.copy(bold = style.bold || length >= 2, italic = style.italic || length != 2)
        val close = if (length > 3 || inner == style || !opens(at, end)) -1 else closeOf(mark, end, to)
        val isOpen = close < 0 && isGrowing && to == text.length && length <= 3 && inner != style && opens(at, end)
        if (close < 0 && !isOpen) return end.also { spans.put(mark, style) }
        read(end, if (isOpen) to else close, inner)
        return if (isOpen) to else close + length
    }

    private fun opens(at: Int, end: Int): Boolean {
        if (end == text.length || text[end].isWhitespace()) return false
        return text[at] == '*' || at == 0 || !text[at - 1].isLetterOrDigit()
    }

    /** Where [mark] closes what began before [from]; -1: nowhere before [to]. */
    private fun closeOf(mark: String, from: Int, to: Int): Int {
        if (mark to to in unclosed) return -1
        var at = from
        while (at < to) {
            val code = if (text[at] == '`') codes[at] else null
            when {
                code != null -> at = code.end
                isEscape(at) -> at += 2
                text[at] == mark.first() -> {
                    val end = minOf(at + runAt(at), to)
                    // Of three that close two marks, the inner one takes the first.
                    val fits = end - at == mark.length || end - at == 3
                    if (fits && !text[at - 1].isWhitespace() && endsWord(mark, end)) return end - mark.length
                    at = end
                }
                else -> at++
            }
        }
        unclosed += mark to to
        return -1
    }

    private fun endsWord(mark: String, end: Int) =
        mark.first() == '*' || end == text.length || !text[end].isLetterOrDigit()

    /** All code, by the places where it begins. */
    private fun findCodes(): Map<Int, Code> {
        val runs = mutableListOf<Int>()
        var at = 0
        while (at < text.length) {
            if (text[at] == '`') runs += at
            at += if (isEscape(at)) 2 else if (text[at] == '`') runAt(at) else 1
        }
        val next = IntArray(runs.size)
        val nearest = HashMap<Int, Int>() // run of a length, to the right
        for (run in runs.indices.reversed()) next[run] = nearest.put(runAt(runs[run]), run) ?: -1
        val found = HashMap<Int, Code>()
        var run = 0
        while (run < runs.size) {
            val close = next[run]
            if (close >= 0) found[runs[run]] = Code(runs[close] + runAt(runs[close]), closes = true)
            if (close < 0 && isGrowing) return found.also { it[runs[run]] = Code(text.length, closes = false) }
            run = if (close >= 0) close + 1 else run + 1
        }
        return found
    }

    private fun isEscape(at: Int) = text[at] == '\\' && at + 1 < text.length && text[at + 1] in ESCAPED

    private fun runAt(at: Int): Int {
        var end = at
        while (end < text.length && text[end] == text[at]) end++
        return end - at
    }
}
