package org.etpipeline.core

/** A part of an answer that stands on lines of its own. */
sealed interface Block {
    data class Paragraph(val text: List<Span>) : Block

    /** @property level 1 for the largest, to 6. */
    data class Heading(val level: Int, val text: List<Span>) : Block

    /**
     * One item of a list.
     *
     * @property depth of how many other items it is a part.
     * @property mark its number as it was written (`2.`), or a bullet.
     */
    data class Item(val depth: Int, val mark: String, val text: List<Span>) : Block

    /** @property language as it was named, such as `kotlin`; may be empty. */
    data class Code(val language: String, val text: String) : Block

    data object Rule : Block
}

/** A text that looks alike from its beginning to its end. */
data class Span(val text: String, val bold: Boolean = false, val italic: Boolean = false, val code: Boolean = false)

/**
 * What of Markdown language models write: headings, lists, code, bold and italic. All else, links, too, stays as it was
 * written, and so does text without any marks, to the letter. There is no text that is wrong.
 *
 * @param isGrowing whether more may come: then what has begun is taken for closed at the end, and a mark that is not
 *   whole yet is not shown, so that the text does not jump when its other half comes.
 */
fun readMarkdown(text: String, isGrowing: Boolean = false): List<Block> = BlockReader(text, isGrowing).read()

private const val TAB = 4
private const val BULLET = "•"
private val FENCE = Regex("""^([ \t]*)(`{3,}|~{3,})([^`]*)$""")
private val HEADING = Regex("""^ {0,3}(#{1,6})[ \t]+(.*)$""")
private val HEADING_END = Regex("""[ \t]+#+[ \t]*$""")
private val ITEM = Regex("""^([ \t]*)([-*+]|[0-9]{1,9}[.)])[ \t]+(.*)$""")
private val HALF_MARK = Regex("""^[ \t]*(?:#{1,6}|[-*+_]{1,2}|~{1,2})[ \t]*$""")

private class BlockReader(text: String, private val isGrowing: Boolean) {
    private val lines = text.split('\n')
    private val blocks = mutableListOf<Block>()
    private val plain = mutableListOf<String>() // lines of a paragraph
    private val indents = ArrayDeque<Int>() // of the items that a new one can be a part of
    private var item: MutableList<String>? = null // lines of the last item, while it goes on
    private var itemMark = ""
    private var at = 0

    fun read(): List<Block> {
        while (at < lines.size) line()
        endItem()
        endParagraph(isLast = true)
        return blocks
    }

    private fun line() {
        val line = lines[at].removeSuffix("\r")
        val isLast = at == lines.lastIndex
        val fence = FENCE.find(line)
        val heading = HEADING.find(line)
        val newItem = ITEM.find(line)
        when {
            isLast && isGrowing && HALF_MARK.matches(line) -> Unit
            fence != null -> return code(fence)
            heading != null -> {
                val words = heading.groupValues[2].replace(HEADING_END, "")
                add(Block.Heading(heading.groupValues[1].length, spans(words, isLast)))
                indents.clear()
            }
            isRule(line) -> add(Block.Rule)
            newItem != null -> begin(newItem)
            item != null && line.isNotBlank() && line.first().isWhitespace() -> item?.add(line.trim())
            else -> {
                endItem()
                if (line.isNotBlank() && !line.first().isWhitespace()) indents.clear()
                plain += lines[at]
            }
        }
        at++
    }

    /** A block of code: to its closing fence, or to the end. */
    private fun code(opening: MatchResult) {
        val (indent, fence, language) = opening.destructured
        val code = mutableListOf<String>()
        at++
        while (at < lines.size) {
            val line = lines[at].removeSuffix("\r")
            val mark = line.trim()
            val isMarks = mark.isNotEmpty() && mark.all { it == fence.first() }
            at++
            if (isMarks && mark.length >= fence.length) break
            if (isMarks && isGrowing && at == lines.size) break // the closing fence is being written
            val shared = line.commonPrefixWith(indent).length
            code += line.substring(shared)
        }
        add(Block.Code(language.trim(), code.joinToString("\n")))
    }

    private fun begin(found: MatchResult) {
        endItem()
        endParagraph()
        val (indent, mark, words) = found.destructured
        val width = indent.length + (TAB - 1) * indent.count { it == '\t' }
        while (indents.isNotEmpty() && indents.last() >= width) indents.removeLast()
        indents += width
        itemMark = if (mark.first().isDigit()) mark else BULLET
        item = mutableListOf(words)
    }

    private fun endItem() {
        val lines = item ?: return
        item = null
        blocks += Block.Item(indents.size - 1, itemMark, spans(lines.joinToString("\n"), at >= this.lines.size))
    }

    private fun add(block: Block) {
        endItem()
        endParagraph()
        blocks += block
    }

    /** Empty lines count within a paragraph only, but where there is nothing else all text stays. */
    private fun endParagraph(isLast: Boolean = false) {
        var text = plain.joinToString("\n")
        plain.clear()
        if (blocks.isNotEmpty() || !isLast) text = text.trim('\n', '\r')
        if (text.isBlank() && (blocks.isNotEmpty() || !isLast)) return
        if (text.isNotEmpty()) blocks += Block.Paragraph(spans(text, isLast))
    }

    private fun spans(text: String, isLast: Boolean): List<Span> = readSpans(text, isLast && isGrowing)
}

/** At least three of the same of `-`, `*` and `_`. No regular expression: lines of thousands exhaust its stack. */
private fun isRule(line: String): Boolean {
    val marks = line.filterNot { it == ' ' || it == '\t' }
    return marks.length >= 3 && marks.first() in "-*_" && marks.all { it == marks.first() }
}
