package org.etpipeline.core.tokenizer

import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/**
 * Reads a `tokenizer.json`.
 *
 * @throws IllegalArgumentException naming what is wrong with it, or not known here.
 */
internal class TokenizerReader(bytes: ByteArray) {
    private val json = JsonBytes(bytes)
    private val members = json.members(json.start)

    fun read(): Tokenizer {
        val version = tree("version")
        require(version == null || version == JsonPrimitive("1.0")) { "version is not 1.0" }
        val model = ModelReader(json, members["model"] ?: throw IllegalArgumentException("model is missing")).read()
        val normalizer = part("normalizer")?.let(::readNormalizer)
        val preTokenizer = part("pre_tokenizer")?.let { readPreTokenizer(it, normalizer?.keepsStart ?: true) }
        val decoder = part("decoder")?.let(::readDecoder) ?: Decoder.NONE
        val frame = part("post_processor")?.let(::readFrame) ?: NO_FRAME
        return Tokenizer(model, AddedTokens(addedTokens(), model.vocabulary, normalizer), preTokenizer, decoder, frame)
    }

    private fun tree(name: String) = members[name]?.let(json::tree)?.takeIf { it != JsonNull }

    private fun part(name: String) = tree(name)?.let { JsonPart(it, name) }

    private fun addedTokens(): List<AddedToken> {
        val tokens = JsonPart(JsonObject(mapOf("" to (tree("added_tokens") ?: return emptyList()))), "added_tokens")
        return tokens.parts("").map { token ->
            token.only("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
            AddedToken(
                content = token.text("content"),
                isSpecial = token.flag("special"),
                isNormalized = token.flag("normalized"),
                isSingleWord = token.flag("single_word"),
                stripsLeft = token.flag("lstrip"),
                stripsRight = token.flag("rstrip"),
            )
        }
    }
}

/** Reads the model, whose long lists do not become trees. */
internal class ModelReader(private val json: JsonBytes, at: Int) {
    private val members = json.members(at)
    private val options = JsonPart(
        JsonObject((members.keys - "vocab" - "merges").associateWith { json.tree(members.getValue(it)) }),
        "model",
    )
    private val vocabulary = Vocabulary()

    fun read(): Model = when (val type = options.textOrNull("type") ?: guessed()) {
        "BPE" -> bpe()
        "Unigram" -> unigram()
        "WordPiece" -> wordPiece()
        else -> options.bad("is a '$type', which is not known here")
    }

    /** The oldest files do not tell. */
    private fun guessed() = when {
        "merges" in members -> "BPE"
        options.has("max_input_chars_per_word") -> "WordPiece"
        else -> options.bad("has no type")
    }

    private fun bpe(): Bpe {
        options.only(
            "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
            "ignore_merges",
        )
        val isDrawn = options.has("dropout") && !options.isZero("dropout")
        if (isDrawn) options.bad("has a dropout: its tokens are drawn by lot")
        readVocabulary()
        val prefix = options.textOrNull("continuing_subword_prefix").orEmpty()
        val unknown = options.textOrNull("unk_token")
        val rules = Bpe.Rules(
            dropsUnknown = unknown == null,
            unknown = unknown?.let(vocabulary::idOf),
            fusesUnknown = options.flag("fuse_unk", false),
            byteFallback = options.flag("byte_fallback", false),
            ignoresMerges = options.flag("ignore_merges", false),
            prefix = prefix,
            suffix = options.textOrNull("end_of_word_suffix").orEmpty(),
        )
        return Bpe(vocabulary, merges(prefix.length), rules)
    }

    private fun wordPiece(): WordPiece {
        options.only("unk_token", "continuing_subword_prefix", "max_input_chars_per_word")
        readVocabulary()
        return WordPiece(
            vocabulary,
            vocabulary.idOf(options.text("unk_token")),
            options.text("continuing_subword_prefix"),
            options.number("max_input_chars_per_word"),
        )
    }

    private fun unigram(): Unigram {
        options.only("unk_id", "byte_fallback")
        val text = StringBuilder()
        val scores = mutableListOf<Double>()
        json.eachElement(member("vocab")) { entry ->
            var at = 0
            json.eachElement(entry) { value ->
                if (at++ == 0) json.text(value, text) else scores += json.number(value).toDouble()
            }
            vocabulary.add(text, scores.size - 1)
        }
        val unknown = if (options.has("unk_id")) options.number("unk_id") else null
        if (unknown != null && unknown !in scores.indices) options.bad("has an unk_id that is no token")
        return Unigram(vocabulary, scores.toDoubleArray(), unknown, options.flag("byte_fallback", false))
    }

    private fun readVocabulary() = json.eachMember(member("vocab")) { text, id ->
        vocabulary.add(text, requireNotNull(json.number(id).toIntOrNull()) { "model.vocab has an id that is none" })
    }

    private fun merges(prefix: Int): Merges {
        val at = member("merges")
        var count = 0
        json.eachElement(at) { count++ }
        val merges = Merges(count)
        val left = StringBuilder()
        val right = StringBuilder()
        var rank = 0
        json.eachElement(at) { pair ->
            readPair(pair, left, right)
            val leftId = vocabulary.find(left, 0, left.length)
            val rightId = vocabulary.find(right, 0, right.length)
            left.append(right, minOf(prefix, right.length), right.length)
            val merged = vocabulary.find(left, 0, left.length)
            require(minOf(leftId, rightId, merged) >= 0) { "model.merges.$rank is not of the vocabulary" }
            merges.add(rank++, leftId, rightId, merged)
        }
        return merges
    }

    /** A pair is a list of two texts, or in older files one text with a space between the two. */
    private fun readPair(at: Int, left: StringBuilder, right: StringBuilder) {
        if (json.isText(at)) {
            json.text(at, left)
            val space = left.indexOf(" ")
            require(space >= 0 && left.lastIndexOf(" ") == space) { "model.merges has a pair that is none" }
            right.setLength(0)
            right.append(left, space + 1, left.length)
            left.setLength(space)
            return
        }
        var count = 0
        json.eachElement(at) { json.text(it, if (count++ == 0) left else right) }
        require(count == 2) { "model.merges has a pair that is none" }
    }

    private fun member(name: String): Int = members[name] ?: options.bad("has no '$name'")
}

private val NO_FRAME = Tokenizer.Frame(IntArray(0), IntArray(0))

private fun readFrame(part: JsonPart): Tokenizer.Frame = when (val type = part.type) {
    "ByteLevel" -> NO_FRAME // it only tells where in the text a token was
    "BertProcessing", "RobertaProcessing" -> Tokenizer.Frame(numberOf(part, "cls"), numberOf(part, "sep"))
    "TemplateProcessing" -> readTemplate(part)
    "Sequence" -> part.parts("processors").map(::readFrame).fold(NO_FRAME) { inner, outer ->
        Tokenizer.Frame(outer.before + inner.before, inner.after + outer.after)
    }
    else -> part.bad("is a '$type', which is not known here")
}

private fun numberOf(part: JsonPart, name: String): IntArray =
    intArrayOf((part.list(name).getOrNull(1) as? JsonPrimitive)?.content?.toIntOrNull() ?: part.bad("has no '$name'"))

private fun readTemplate(part: JsonPart): Tokenizer.Frame {
    val before = Ids()
    val after = Ids()
    var isText = false
    for (piece in part.parts("single")) {
        if (piece.has("Sequence")) {
            if (isText || piece.part("Sequence").text("id") != "A") piece.bad("is not the only text")
            isText = true
            continue
        }
        val token = part.part("special_tokens").part(piece.part("SpecialToken").text("id"))
        for (id in token.list("ids")) {
            val number = (id as? JsonPrimitive)?.content?.toIntOrNull() ?: token.bad("has an id that is none")
            (if (isText) after else before).add(number)
        }
    }
    if (!isText) part.bad("has no text")
    return Tokenizer.Frame(before.toArray(), after.toArray())
}
