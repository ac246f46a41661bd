package org.etpipeline.core.tokenizer

import java.text.Normalizer.Form
import java.util.Base64

/** A normalizer of a tokenizer's file. */
internal fun readNormalizer(part: JsonPart): Normalizer = when (val type = part.type) {
    "Sequence" -> Normalizer.Sequence(part.only("normalizers").parts("normalizers").map(::readNormalizer))
    "NFC", "NFD", "NFKC", "NFKD" -> Normalizer.Unicode(Form.valueOf(part.only().type))
    "Lowercase" -> Normalizer.Lowercase.also { part.only() }
    "Strip" -> Normalizer.Strip(part.only("strip_left", "strip_right").flag("strip_left"), part.flag("strip_right"))
    "StripAccents" -> Normalizer.StripAccents.also { part.only() }
    "Nmt" -> Normalizer.Nmt.also { part.only() }
    "Prepend" -> Normalizer.Prepend(part.only("prepend").text("prepend"))
    "Replace" -> Normalizer.Replace(readSearch(part.only("pattern", "content")), part.text("content"))
    "ByteLevel" -> Normalizer.ByteLevel.also { part.only("add_prefix_space", "trim_offsets", "use_regex") }
    "Precompiled" -> part.only("precompiled_charsmap").reading {
        CharsMap(Base64.getDecoder().decode(part.text("precompiled_charsmap")))
    }
    "BertNormalizer" -> readBertNormalizer(part)
    else -> part.bad("is a '$type', which is not known here")
}

private fun readBertNormalizer(part: JsonPart): Normalizer {
    part.only("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    val lowercase = part.flag("lowercase")
    return Normalizer.Bert(
        clean = part.flag("clean_text"),
        spaceIdeographs = part.flag("handle_chinese_chars"),
        stripAccents = part.flag("strip_accents", lowercase),
        lowercase = lowercase,
    )
}

/** What a Split or a Replace looks for. */
private fun readSearch(part: JsonPart): Pattern {
    val pattern = part.part("pattern").only("String", "Regex")
    pattern.textOrNull("Regex")?.let { source -> return pattern.reading { readPattern(source) } }
    val text = pattern.text("String")
    val isOne = text.isNotEmpty() && text.codePointCount(0, text.length) == 1
    return if (isOne) OneOf(Chars.of(text.codePoint(0))) else Literal(text)
}

/**
 * A pre-tokenizer of a tokenizer's file.
 *
 * @param keepsStart whether the first character of a text is still that after the normalizer.
 */
internal fun readPreTokenizer(part: JsonPart, keepsStart: Boolean): PreTokenizer = when (val type = part.type) {
    "Sequence" -> PreTokenizer.Sequence(
        part.only("pretokenizers").parts("pretokenizers").map { readPreTokenizer(it, keepsStart) },
    )
    "ByteLevel" -> PreTokenizer.ByteLevel(
        part.only("add_prefix_space", "trim_offsets", "use_regex").flag("add_prefix_space"),
        part.flag("use_regex", true),
    )
    "Split" -> PreTokenizer.Split(
        readSearch(part.only("pattern", "behavior", "invert")),
        readBehavior(part),
        part.flag("invert"),
    )
    "Digits" -> PreTokenizer.digits(part.only("individual_digits").flag("individual_digits"))
    "Metaspace" -> readMetaspace(part, keepsStart)
    "Punctuation" -> PreTokenizer.punctuation(
        if (part.only("behavior").has("behavior")) readBehavior(part) else Behavior.ISOLATED,
    )
    "Whitespace" -> PreTokenizer.WHITESPACE.also { part.only() }
    "WhitespaceSplit" -> PreTokenizer.WHITESPACE_SPLIT.also { part.only() }
    "BertPreTokenizer" -> PreTokenizer.BERT.also { part.only() }
    else -> part.bad("is a '$type', which is not known here")
}

private fun readBehavior(part: JsonPart): Behavior = when (val name = part.text("behavior")) {
    "Removed" -> Behavior.REMOVED
    "Isolated" -> Behavior.ISOLATED
    "MergedWithPrevious" -> Behavior.MERGED_WITH_PREVIOUS
    "MergedWithNext" -> Behavior.MERGED_WITH_NEXT
    "Contiguous" -> Behavior.CONTIGUOUS
    else -> part.bad("has the behavior '$name', which is not known here")
}

private fun readMetaspace(part: JsonPart, keepsStart: Boolean): PreTokenizer {
    part.only("replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep")
    val name = part.textOrNull("prepend_scheme")
    val addsSpace = part.flag("add_prefix_space", true)
    val scheme = when {
        !addsSpace && (name ?: "always") != "never" -> part.bad("has an add_prefix_space against its prepend_scheme")
        name == null || name == "always" -> Scheme.ALWAYS
        name == "never" -> Scheme.NEVER
        name == "first" -> Scheme.FIRST
        else -> part.bad("has the prepend_scheme '$name', which is not known here")
    }
    if (scheme == Scheme.FIRST && !keepsStart) part.bad("asks for the first word behind a normalizer that may move it")
    return PreTokenizer.Metaspace(mark(part), scheme, part.flag("split", true))
}

private fun mark(part: JsonPart): Char =
    part.text("replacement").singleOrNull() ?: part.bad("has a replacement that is no letter")

/** The decoder of a tokenizer's file. */
internal fun readDecoder(part: JsonPart): Decoder {
    val steps = mutableListOf<(String) -> String>()
    var kind = Decoder.Kind.TEXT
    var isJoined = false
    val parts = if (part.type == "Sequence") part.only("decoders").parts("decoders") else listOf(part)
    for (step in parts) {
        val isLate = isJoined || kind != Decoder.Kind.TEXT // there are no tokens any more, or bytes among them
        when (step.type) {
            "Fuse" -> isJoined = true
            "ByteFallback", "ByteLevel" -> {
                if (isLate) step.bad("comes too late for what is known here")
                kind = if (step.type == "ByteLevel") Decoder.Kind.BYTE_LEVEL else Decoder.Kind.BYTE_FALLBACK
                isJoined = step.type == "ByteLevel"
            }
            "Strip" -> if (!isJoined || step.number("stop") > 0) { // else it is for a text's beginning only
                if (isLate) step.bad("comes too late for what is known here")
                steps += readStrip(step)
            }
            else -> {
                if (isLate) step.bad("comes too late for what is known here")
                steps += readDecoderStep(step)
            }
        }
    }
    return Decoder(steps, kind)
}

private fun readStrip(part: JsonPart): (String) -> String =
    Decoder.strip(part.only("content", "start", "stop").text("content"), part.number("start"), part.number("stop"))

private fun readDecoderStep(part: JsonPart): (String) -> String = when (val type = part.type) {
    "Replace" -> {
        val pattern = readSearch(part.only("pattern", "content"))
        val content = part.text("content");
        { token -> pattern.replace(token, content) }
    }
    "Metaspace" -> {
        val mark = mark(part.only("replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"));
        { token -> token.replace(mark, ' ') }
    }
    "WordPiece" -> Decoder.wordPiece(part.only("prefix", "cleanup").text("prefix"), part.flag("cleanup"))
    else -> part.bad("is a '$type', which is not known here")
}
