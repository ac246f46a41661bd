package org.etpipeline.core

import java.text.Normalizer

/** Unicode's White_Space: what Hugging Face's tokenizers leave out beside such tokens. */
private val WHITE_SPACE = ("\t\n\u000b\u000c\r \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000".toList() +
    ('\u2000'..'\u200a')).toCharArray()

/**
 * A prompt as the tokenizer's file wants it, where that leaves something to the caller.
 *
 * @param normalization of the manifest's tokenizer: Unicode's form, or null.
 * @param lstrip tokens before which white space is left out.
 * @param rstrip tokens behind which it is.
 */
fun prepared(prompt: String, normalization: String?, lstrip: List<String>, rstrip: List<String>): String {
    var text = prompt
    for (token in lstrip) {
        val parts = text.split(token)
        text = (parts.dropLast(1).map { it.trimEnd(*WHITE_SPACE) } + parts.last()).joinToString(token)
    }
    for (token in rstrip) {
        val parts = text.split(token)
        text = (parts.take(1) + parts.drop(1).map { it.trimStart(*WHITE_SPACE) }).joinToString(token)
    }
    return normalization?.let { Normalizer.normalize(text, Normalizer.Form.valueOf(it)) } ?: text
}
