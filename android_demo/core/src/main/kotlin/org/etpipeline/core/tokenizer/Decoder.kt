package org.etpipeline.core.tokenizer

private val BYTE = Regex("<0x[0-9A-Fa-f]{2}>")

/**
 * What a token adds to a text that has begun.
 *
 * @param steps what is made of a token's text, one after the other.
 * @property kind how the text becomes bytes.
 */
internal class Decoder(private val steps: List<(String) -> String>, val kind: Kind) {
    enum class Kind { TEXT, BYTE_FALLBACK, BYTE_LEVEL }

    /** The byte that a token stands for; null if it stands for a text. */
    fun byteOf(token: String): Int? {
        val made = made(token)
        return if (kind == Kind.BYTE_FALLBACK && BYTE.matches(made)) made.substring(3, 5).toInt(16) else null
    }

    fun bytesOf(token: String): ByteArray {
        val made = made(token)
        if (kind == Kind.BYTE_LEVEL) return ByteLetters.read(made)
        return byteOf(token)?.let { byteArrayOf(it.toByte()) } ?: made.encodeToByteArray()
    }

    private fun made(token: String) = steps.fold(token) { text, step -> step(text) }

    companion object {
        /** Without a decoder there is a space between two tokens. */
        val NONE = Decoder(listOf { " $it" }, Kind.TEXT)

        private val CLEANED = listOf(
            " ." to ".", " ?" to "?", " !" to "!", " ," to ",", " ' " to "'", " n't" to "n't", " 'm" to "'m",
            " do not" to " don't", " 's" to "'s", " 've" to "'ve", " 're" to "'re",
        )

        /** BERT's: a token without its prefix begins a word. */
        fun wordPiece(prefix: String, isCleaned: Boolean): (String) -> String = { token ->
            val made = if (token.startsWith(prefix)) token.removePrefix(prefix) else " $token"
            if (isCleaned) CLEANED.fold(made) { text, (from, to) -> text.replace(from, to) } else made
        }

        /** Takes up to [start] times and [stop] times [content] from a token's sides. */
        fun strip(content: String, start: Int, stop: Int): (String) -> String = { token ->
            var made = token
            repeat(start) { made = made.removePrefix(content) }
            repeat(stop) { made = made.removeSuffix(content) }
            made
        }
    }
}
