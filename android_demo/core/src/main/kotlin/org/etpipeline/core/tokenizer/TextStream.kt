package org.etpipeline.core.tokenizer

private const val REPLACEMENT = '\uFFFD'

/**
 * A text that grows by tokens.
 *
 * Nothing is lost and no half character comes out: bytes wait until they are a character, or can be none any more and
 * become U+FFFD, as many as `tokenizers` makes of them. Where a byte token stands for each byte, that takes all bytes
 * of a row for wrong if one is; here those stay right that made whole characters before it.
 */
class TextStream(private val tokenizer: Tokenizer) {
    private val made = StringBuilder()
    private val waiting = Utf8()
    private var isBroken = false // the row of byte tokens that is going on

    /** Takes the next token and returns the text that is whole with it; may be empty. */
    fun add(id: Int): String {
        val byte = tokenizer.byteOf(id)
        when {
            byte != null -> addByteToken(byte)
            tokenizer.isByteLevel -> tokenizer.bytesOf(id).forEach { addByte(it.toInt() and 0xFF) }
            else -> tokenizer.bytesOf(id).takeIf { it.isNotEmpty() || tokenizer.isToken(id) }?.let { text ->
                endRow()
                made.append(text.decodeToString())
            }
        }
        return take()
    }

    /** Says that nothing more comes, and returns what the bytes that wait for others become. */
    fun finish(): String {
        if (tokenizer.isByteLevel && waiting.length > 0) made.append(REPLACEMENT)
        if (!tokenizer.isByteLevel) endRow()
        waiting.clear()
        return take()
    }

    /** As lossy decoding does: one U+FFFD for as many bytes as could have begun a character. */
    private fun addByte(byte: Int) {
        val waited = waiting.length
        when (val char = waiting.add(byte)) {
            Utf8.MORE -> Unit
            Utf8.WRONG -> {
                made.append(REPLACEMENT)
                if (waited > 0) addByte(byte)
            }
            else -> made.appendCodePoint(char)
        }
    }

    /** One U+FFFD for every byte from the first that is wrong to the row's end. */
    private fun addByteToken(byte: Int) {
        val waited = waiting.length
        when (val char = if (isBroken) Utf8.WRONG else waiting.add(byte)) {
            Utf8.MORE -> Unit
            Utf8.WRONG -> {
                isBroken = true
                repeat(waited + 1) { made.append(REPLACEMENT) }
            }
            else -> made.appendCodePoint(char)
        }
    }

    private fun endRow() {
        repeat(waiting.length) { made.append(REPLACEMENT) }
        waiting.clear()
        isBroken = false
    }

    private fun take(): String = made.toString().also { made.setLength(0) }
}

/** Puts bytes together to a character. */
private class Utf8 {
    private var char = 0
    private var missing = 0
    private var least = 0x80
    private var most = 0xBF

    /** How many bytes wait. */
    var length = 0
        private set

    /** The character that is whole with this byte; [MORE], or [WRONG] if none can become of them: none wait then. */
    fun add(byte: Int): Int {
        if (length == 0) return begin(byte)
        if (byte !in least..most) {
            clear()
            return WRONG
        }
        least = 0x80
        most = 0xBF
        char = char shl 6 or (byte and 0x3F)
        length++
        if (--missing > 0) return MORE
        return char.also { clear() }
    }

    fun clear() {
        length = 0
        least = 0x80
        most = 0xBF
    }

    private fun begin(byte: Int): Int {
        when (byte) {
            in 0x00..0x7F -> return byte
            in 0xC2..0xDF -> await(1, byte and 0x1F)
            in 0xE0..0xEF -> await(2, byte and 0x0F)
            in 0xF0..0xF4 -> await(3, byte and 0x07)
            else -> return WRONG
        }
        when (byte) { // no longer than needed, no surrogate, nothing above U+10FFFF
            0xE0 -> least = 0xA0
            0xED -> most = 0x9F
            0xF0 -> least = 0x90
            0xF4 -> most = 0x8F
        }
        return MORE
    }

    private fun await(bytes: Int, bits: Int) {
        missing = bytes
        char = bits
        length = 1
    }

    companion object {
        const val MORE = -1
        const val WRONG = -2
    }
}
