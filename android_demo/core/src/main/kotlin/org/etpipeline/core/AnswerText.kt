package org.etpipeline.core

/**
 * What of a growing answer can be shown.
 *
 * Special tokens are taken out, a stop string ends the answer, and what may still become one of the two is held back,
 * so that nothing ever has to be taken from the screen again. However a text is cut into pieces, the same is visible.
 *
 * @param stopStrings texts that end the answer; that one counts which is complete first. Empty ones are ignored.
 * @param specialTokens texts to hide. One that is also a stop string ends the answer.
 * @param beginning is put before the first text that is visible.
 */
class AnswerText(stopStrings: List<String>, specialTokens: List<String>, private val beginning: String = "") {
    private val stops = stopStrings.filter { it.isNotEmpty() }
    private val hidden = specialTokens.filter { it.isNotEmpty() && it !in stops }.groupBy { it.first() }
    private val shown = StringBuilder()
    private var raw = "" // may still become a special token
    private var plain = "" // without special tokens; may still become a stop string or a whole character

    /** All that is visible so far. */
    val text: String get() = shown.toString()

    /** Whether a stop string has ended the answer: nothing that comes now is shown. */
    var stopped: Boolean = false
        private set

    /** Takes the next piece and returns the text that becomes visible with it; may be empty. */
    fun add(piece: String): String {
        if (stopped) return ""
        raw += piece
        plain += takePlain(isEnd = false)
        return show(isEnd = false)
    }

    /** Says that nothing more comes and returns what was held back, if it was plain text after all. */
    fun finish(): String {
        if (stopped) return ""
        plain += takePlain(isEnd = true)
        return show(isEnd = true)
    }

    /** Takes from [raw] what is no special token and cannot become one. */
    private fun takePlain(isEnd: Boolean): String = buildString {
        var at = 0
        while (at < raw.length) {
            val rest = raw.length - at
            val candidates = hidden[raw[at]].orEmpty()
            if (!isEnd && candidates.any { it.length > rest && raw.regionMatches(at, it, 0, rest) }) break
            val token = candidates.filter { raw.startsWith(it, at) }.maxByOrNull { it.length }
            if (token == null) append(raw[at])
            at += token?.length ?: 1
        }
        raw = raw.substring(at)
    }

    /** Moves from [plain] to the screen what is safe there. */
    private fun show(isEnd: Boolean): String {
        val stop = stops.map { it to plain.indexOf(it) }.filter { (_, at) -> at >= 0 }
            .minWithOrNull(compareBy({ (stop, at) -> at + stop.length }, { (_, at) -> at }))
        stopped = stop != null
        var end = stop?.second ?: if (isEnd) plain.length else plain.length - lengthOfStopBeginning()
        // Half a character is nothing to show; at the end its other half never comes.
        if (end > 0 && plain[end - 1].isHighSurrogate()) end--
        val new = plain.substring(0, end)
        val visible = if (shown.isEmpty() && new.isNotEmpty()) beginning + new else new
        plain = if (stopped || isEnd) "" else plain.substring(end)
        shown.append(visible)
        return visible
    }

    /** Length of the longest end of [plain] with which a stop string begins. */
    private fun lengthOfStopBeginning(): Int =
        stops.maxOfOrNull { stop ->
            (minOf(stop.length - 1, plain.length) downTo 1).firstOrNull { plain.endsWith(stop.take(it)) } ?: 0
        } ?: 0
}
