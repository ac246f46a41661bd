package org.etpipeline.core.tokenizer

import java.io.File
import java.io.IOException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.etpipeline.core.storageProblem

private const val REPLACEMENT = '\uFFFD'

/**
 * A tokenizer, as a `tokenizer.json` of Hugging Face describes it; its ids are those of the library `tokenizers`.
 *
 * Calls may come from any thread.
 */
class Tokenizer internal constructor(
    private val model: Model,
    private val added: AddedTokens,
    private val preTokenizer: PreTokenizer?,
    private val decoder: Decoder,
    private val frame: Frame,
) {
    /** Ids are 0 until it; there may be none of some of them. */
    val size: Int = maxOf(model.vocabulary.size, added.size)

    internal val isByteLevel: Boolean get() = decoder.kind == Decoder.Kind.BYTE_LEVEL

    /** A text's ids, without those that a model wants around it. Special tokens in it are taken for what they are. */
    fun encode(text: String): IntArray {
        val ids = Ids()
        for (segment in added.segments(wellFormed(text))) {
            if (segment.id >= 0) {
                ids.add(segment.id)
                continue
            }
            val whole = Piece(segment.text, segment.isFirst)
            val words = preTokenizer?.cut(whole) ?: listOf(whole)
            for (word in words) if (word.text.isNotEmpty()) model.tokenize(word.text, ids)
        }
        return ids.toArray()
    }

    /**
     * A text's ids with the special tokens around it that the model was trained with.
     *
     * @param most of them all together: of a longer text its end is left out, and the special tokens stay.
     */
    fun encodeForModel(text: String, most: Int = Int.MAX_VALUE): IntArray {
        val ids = encode(text)
        val room = (most - frame.before.size - frame.after.size).coerceAtLeast(0)
        return frame.before + (if (ids.size > room) ids.copyOf(room) else ids) + frame.after
    }

    /** What a token adds to a text that has begun; nothing if there is no such id. */
    fun bytesOf(id: Int): ByteArray = textOf(id)?.let(decoder::bytesOf) ?: ByteArray(0)

    /** Whether it says something about the text, such as where it ends, instead of being part of it. */
    fun isSpecial(id: Int): Boolean = added.isSpecial(id)

    /** The id of a token of the vocabulary or an added one; null if there is none. */
    fun idOf(token: String): Int? = added.idOf(token) ?: model.vocabulary.idOf(token)

    internal fun isToken(id: Int): Boolean = textOf(id) != null

    internal fun byteOf(id: Int): Int? =
        if (decoder.kind == Decoder.Kind.BYTE_FALLBACK) textOf(id)?.let(decoder::byteOf) else null

    private fun textOf(id: Int): String? = added.textOf(id) ?: model.vocabulary.textOf(id)

    /** The ids before and after a text. */
    internal class Frame(val before: IntArray, val after: IntArray)

    companion object {
        /**
         * Reads a `tokenizer.json`. What it says about cutting texts off and filling them up is not looked at.
         *
         * @throws EngineException [Problem.BadTokenizer], naming what of the file is wrong or not known here: a text is
         *   never cut up in another way than the model was trained with. [Problem.Storage] if it cannot be read.
         */
        fun read(file: File): Tokenizer {
            try {
                return TokenizerReader(file.readBytes()).read()
            } catch (error: IOException) {
                throw EngineException(storageProblem(error), error)
            } catch (error: IllegalArgumentException) {
                val detail = error.message.orEmpty().lineSequence().first().take(200)
                throw EngineException(Problem.BadTokenizer("${file.name}: $detail"), error)
            }
        }
    }
}

/** Halves of characters are nothing that a tokenizer could be asked about. */
private fun wellFormed(text: String): String {
    if (text.none { it.isSurrogate() }) return text
    val made = StringBuilder(text.length)
    text.eachCodePoint { if (it in 0xD800..0xDFFF) made.append(REPLACEMENT) else made.appendCodePoint(it) }
    return made.toString()
}
