package org.etpipeline.core.tokenizer

/** The letters that GPT-2 has for bytes: all visible, none white space. */
internal object ByteLetters {
    private val letters = CharArray(256)
    private val bytes = IntArray(0x144) { -1 }

    init {
        var more = 0x100
        for (byte in 0..255) {
            val isVisible = byte in 0x21..0x7E || byte in 0xA1..0xAC || byte in 0xAE..0xFF
            letters[byte] = (if (isVisible) byte else more++).toChar()
            bytes[letters[byte].code] = byte
        }
    }

    fun letterOf(byte: Int): Char = letters[byte]

    /** The letters for a text's bytes. */
    fun write(text: String): String {
        val made = StringBuilder(text.length)
        for (byte in text.encodeToByteArray()) made.append(letterOf(byte.toInt() and 0xFF))
        return made.toString()
    }

    /** The bytes for letters, or a text's own bytes if it has something else in it. */
    fun read(text: String): ByteArray {
        if (text.any { it.code >= bytes.size || bytes[it.code] < 0 }) return text.encodeToByteArray()
        return ByteArray(text.length) { bytes[text[it].code].toByte() }
    }
}
