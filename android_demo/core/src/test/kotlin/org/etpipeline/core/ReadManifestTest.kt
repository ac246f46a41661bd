package org.etpipeline.core

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test

class ReadManifestTest {
    private fun problemOf(block: () -> Unit): Problem = assertThrows(BundleException::class.java) { block() }.problem

    private fun assertBad(text: String, vararg words: String) {
        val problem = problemOf { readManifest(text) }
        assertTrue("$problem", problem is Problem.BadManifest)
        val detail = (problem as Problem.BadManifest).detail
        for (word in words) assertTrue("'$word' in '$detail'", word in detail)
        assertTrue("one line: $detail", '\n' !in detail && detail.isNotBlank() && detail.length <= 300)
    }

    @Test
    fun `all fields are read`() {
        val manifest = readManifest(sampleManifest())
        assertEquals("Small model", manifest.what.name)
        assertEquals(70_013L, manifest.totalBytes)
        assertEquals("<|end|>", manifest.chat.segments.assistantToUser)
        assertEquals(0.7f, manifest.chat.sampling.temperature)
        assertEquals(listOf("French", "German"), manifest.tasks.getValue("translate").choices["language"])
        assertEquals(5.0, manifest.speed.single().loadMs.p50, 0.0)
        assertEquals(1.0, manifest.quality.agreement!!.original.chunked.top1, 0.0)
    }

    @Test
    fun `fields with a default can be missing`() {
        val optional = listOf(
            "tasks", "speed", "stages", "samples", "what.licence", "what.created", "programs.0.soc", "programs.0.qairt",
            "programs.0.fallback_operators", "tokenizer.kind", "tokenizer.bos_id", "tokenizer.special_tokens",
            "chat.add_bos", "chat.stop_strings", "chat.sampling", "chat.system_prompt", "quality.agreement",
            "quality.tasks", "quality.perplexity", "chat.segments.system_prefix", "embedding", "quality.embedding",
            "what.task", "programs.0.weights", "programs.0.source_quantization", "quality.text",
            "quality.text.deployed", "quality.gate.checks.0.interval",
        ) + VERSION_3 + VERSION_5
        for (field in optional) {
            val text = if (field == "tasks") edited("samples", "[]") else sampleManifest()
            readManifest(edited(field, null, text))
        }
    }

    @Test
    fun `the bundle of the pipeline is read`() {
        val folder = System.getProperty("et.bundle")
        assumeTrue("the system property et.bundle names a bundle", folder != null)
        val manifest = readManifest(File(folder, Manifest.FILE_NAME).readText())
        assertTrue(manifest.tasks.isNotEmpty())
        assertEquals(manifest.files.keys, File(folder).list().orEmpty().toSet() - Manifest.FILE_NAME)
    }

    @Test
    fun `what is no JSON or no manifest is refused`() {
        for (text in listOf("", " ", "{", "nothing", "[]", "7", "null", "{}", "\"x\"", "{\"format\": \"other\"}")) {
            assertBad(text)
        }
        assertBad("[".repeat(1_000_000))
        val nested = "[".repeat(50_000) + "]".repeat(50_000)
        assertBad(sampleManifest().replace("\"seed\": 0", "\"seed\": $nested"))
        assertBad(sampleManifest() + "x")
        assertBad(sampleManifest().dropLast(1))
    }

    @Test
    fun `a switch for thinking, since version 11`() {
        val other = """{"user_to_assistant": "<|end|><think></think>"}"""
        val chat = readManifest(edited("chat.thinking", """{"default": true, "other": $other}""")).chat
        assertEquals(Thinking(true, ChatFormat(userToAssistant = "<|end|><think></think>")), chat.thinking)
        assertBad(edited("chat.thinking", """{"default": "true", "other": $other}"""), "chat.thinking.default")
        assertBad(edited("chat.thinking", """{"default": true}"""), "other")
    }

    @Test
    fun `versions`() {
        assertEquals(Problem.NewerManifest("12", 11), problemOf { readManifest(edited("version", "12")) })
        // Whatever else has changed in it.
        val other = "{\"format\": \"et_pipeline.bundle\", \"version\": 12, \"all\": \"new\"}"
        assertEquals(Problem.NewerManifest("12", 11), problemOf { readManifest(other) })
        for (version in listOf("0", "-1", "\"1\"", "1.5", "null", "[1]", "{}", "true")) {
            assertBad(edited("version", version), "version")
        }
        assertBad(edited("version", null), "version")
        assertBad(edited("format", "\"x\""), "format")
    }

    @Test
    fun `versions 1 to 4, which lack what came later`() {
        val now = readManifest(sampleManifest())
        var text = edited("version", "4")
        for (field in VERSION_5 + "quality.gate.checks.0.interval") text = edited(field, null, text)
        val certain = now.quality.gate.copy(checks = now.quality.gate.checks.map { it.copy(interval = null) })
        val unseen = now.quality.copy(witness = null, gate = certain)
        val plain = now.tokenizer.copy(
            bosToken = null, normalization = null, lstrip = emptyList(), rstrip = emptyList(), parity = null,
        )
        val fourth = now.copy(version = 4, quality = unseen, tokenizer = plain)
        assertEquals(fourth, readManifest(text))
        text = edited("version", "3", text)
        for (field in listOf("quality.text", "programs.0.source_quantization")) text = edited(field, null, text)
        val third = now.programs.single().copy(sourceQuantization = null)
        val untold = unseen.copy(text = null)
        assertEquals(fourth.copy(version = 3, programs = listOf(third), quality = untold), readManifest(text))
        val program = third.copy(recipe = null, delegatedOperators = emptyMap(), fallbackReasons = emptyMap())
        text = edited("version", "2", text)
        for (field in VERSION_3) text = edited(field, null, text)
        val quality = untold.copy(greedy = null)
        assertEquals(fourth.copy(version = 2, programs = listOf(program), quality = quality), readManifest(text))
        text = edited("version", "1", text)
        for (field in listOf("what.task", "programs.0.weights", "embedding", "quality.embedding")) {
            text = edited(field, null, text)
        }
        assertEquals(fourth.copy(version = 1, programs = listOf(program), quality = quality), readManifest(text))
    }

    @Test
    fun `a program for certain chips, with figures of its own`() {
        val manifest = readManifest(twoPrograms())
        val (npu, cpu) = manifest.programs
        assertEquals(listOf("SM8650") to "V75", npu.soc to npu.hexagon)
        assertEquals("v2.49.40" to "tokens_cache", npu.qairt to npu.signature)
        assertEquals(mapOf("aten.embedding" to "its table is too large"), npu.fallbackReasons)
        assertEquals(30_000_000L, manifest.memoryOf(npu).peakBytes)
        assertEquals(12_078_208L, manifest.memoryOf(cpu).peakBytes)
        assertEquals(12_078_208L, manifest.memoryOf(null).peakBytes)
        assertEquals(1.5, manifest.qualityOf(npu).perplexity!!.deployed, 0.0)
        assertEquals(1.02, manifest.qualityOf(cpu).perplexity!!.deployed, 0.0)
        assertEquals(manifest.quality, manifest.qualityOf(null))
        assertEquals(emptyList<Speed>(), manifest.speedOf(npu))
        assertEquals(emptyList<Speed>(), manifest.speedOf(npu.copy(quality = null)))
        assertEquals(emptyList<Speed>(), manifest.speedOf(npu.copy(memory = null)))
        assertEquals(manifest.speed, manifest.speedOf(npu.copy(speed = manifest.speed)))
        assertEquals(manifest.speed, manifest.speedOf(cpu))
        assertEquals(manifest.speed, manifest.speedOf(null))
    }

    @Test
    fun `a program's own figures are checked like the bundle's, and the field is named`() {
        val wrong = listOf(
            "signature" to "\"tokens_image\"",
            "signature" to "null",
            "twin" to "\"false\"",
            "hexagon" to "75",
            "delegated_operators" to """{"aten.add": "2"}""",
            "fallback_reasons" to """{"aten.add": 2}""",
            "memory.weights_bytes" to "-1",
            "memory.peak_bytes" to "-1",
            "memory.peak_bytes" to "\"7\"",
            "memory.extra" to "1",
            "memory" to "{}",
            "quality.embedding" to "{}",
            "quality.agreement.original.chunked.top1" to "1.5",
            "quality.tasks.translate.items" to "0",
            "quality.perplexity.deployed" to "0",
            "quality.gate.passed" to "false",
            "quality.extra" to "1",
            "speed" to """[{"where": "a phone"}]""",
            "stages.lower.wall_s" to "-1",
            "stages.lower.peak_rss_bytes" to "-1",
        )
        for ((field, value) in wrong) {
            val name = field.substringAfterLast('.')
            assertBad(edited("programs.0.$field", value, twoPrograms()), if (name == "extra") name else "programs", name)
        }
        assertBad(edited("programs.0.memory.peak_bytes", "-1", twoPrograms()), "programs.0.memory.peak_bytes")
        assertBad(edited("programs.0.quality.gate.passed", "false", twoPrograms()), "programs.0.quality.gate.passed")
        assertBad(edited("programs.0.file", "\"gone.pte\"", twoPrograms()), "gone.pte")
        assertBad(edited("quality.gate.passed", "false", twoPrograms()), "quality.gate.passed")
    }

    /** The sample with a program for the NPU of one chip before its own. */
    private fun twoPrograms(): String {
        val tree = Json.parseToJsonElement(sampleManifest()).jsonObject
        val cpu = tree.getValue("programs").jsonArray.single().toString()
        var npu = """{"programs": [$cpu]}"""
        val different = listOf(
            "file" to "\"model/qnn-v75.pte\"",
            "backend" to "\"qnn\"",
            "recipe" to "\"16a4w\"",
            "soc" to "[\"SM8650\"]",
            "hexagon" to "\"V75\"",
            "methods" to "[\"prefill_forward\", \"kv_forward\"]",
            "signature" to "\"tokens_cache\"",
            "qairt" to "\"v2.49.40\"",
            "notice" to "\"made with Qualcomm's compiler\"",
            "twin" to "true",
            "fallback_reasons" to """{"aten.embedding": "its table is too large"}""",
            "memory" to edited("memory.peak_bytes", "30000000").field("memory"),
            "quality" to edited("quality.perplexity.deployed", "1.5").field("quality"),
            "stages" to """{"lower": {"wall_s": 30, "cpu_s": 29.5, "peak_rss_bytes": 800000000}}""",
        )
        for ((field, value) in different) npu = edited("programs.0.$field", value, npu)
        val both = """[${Json.parseToJsonElement(npu).jsonObject.getValue("programs").jsonArray.single()}, $cpu]"""
        return edited("programs", both, sampleManifest(SAMPLE_FILES + ("model/qnn-v75.pte" to ByteArray(9))))
    }

    private fun String.field(name: String) = Json.parseToJsonElement(this).jsonObject.getValue(name).toString()

    @Test
    fun `a model that embeds texts has what belongs to that, and nothing else`() {
        val read = readManifest(embeddingManifest())
        val embedding = checkNotNull(read.embedding)
        assertNull(read.chatPart)
        assertEquals("q: ", embedding.promptFor(TextUse.QUERY))
        assertEquals("all: ", embedding.promptFor(TextUse.DOCUMENT))
        assertEquals("p: ", embedding.copy(prompts = mapOf("passage" to "p: ")).promptFor(TextUse.DOCUMENT))
        assertEquals("", embedding.copy(prompts = emptyMap(), defaultPrompt = null).promptFor(TextUse.QUERY))
        assertEquals(0.98, read.quality.embedding?.original?.rankCorrelation)
        for (field in listOf("chat", "tasks", "samples", "speed", "quality.agreement", "quality.text")) {
            val kept = Json.parseToJsonElement(sampleManifest()).path(field)
            assertBad(edited(field, kept, embeddingManifest()), field)
        }
        val wrong = mapOf(
            "embedding" to "null",
            "embedding.dimension" to "0",
            "embedding.dimensions" to "[384]",
            "embedding.pooling" to "\"max\"",
            "embedding.default_prompt" to "\"clustering\"",
            "embedding.max_tokens" to "0",
            "embedding.speed.0.threads" to "0",
            "embedding.speed.0.text_ms.p50" to "-1",
            "embedding.samples.0.cosine" to "1.1",
            "quality.embedding.original.texts" to "1",
            "quality.embedding.quantized.rank_correlation" to "-1.1",
            "quality.witness.agreement.min_cosine" to "2",
        )
        for ((path, value) in wrong) assertBad(edited(path, value, embeddingManifest()), path.substringBefore(".p50"))
    }

    @Test
    fun `a model that answers has nothing of one that embeds`() {
        assertBad(edited("what.task", "\"painting\""), "what.task")
        assertBad(edited("what.task", "7"), "what.task")
        assertBad(edited("what.task", "\"embedding\""), "chat")
        val other = Json.parseToJsonElement(embeddingManifest())
        for (field in listOf("embedding", "quality.embedding")) assertBad(edited(field, other.path(field)), field)
    }

    private fun JsonElement.path(path: String): String =
        path.split('.').fold(this) { element, name -> element.jsonObject.getValue(name) }.toString()

    @Test
    fun `unknown, missing and mistyped fields are refused`() {
        for (path in listOf("", "what.", "programs.0.", "chat.segments.", "speed.0.load_ms.")) {
            assertBad(edited("${path}extra", "1"), "extra")
        }
        val required = listOf(
            "what", "files", "programs", "tokenizer", "chat", "memory", "quality", "what.name", "programs.0.file",
            "tokenizer.eos_ids", "chat.segments", "memory.peak_bytes", "quality.gate.passed",
        )
        for (path in required) assertBad(edited(path, null), path.substringAfterLast('.'))
        assertBad(edited("what.parameters", "\"7\""), "what.parameters")
        assertBad(edited("tokenizer.eos_ids", "[\"2\"]"), "tokenizer.eos_ids.0")
        assertBad(edited("tokenizer.adds_bos", "\"false\""), "adds_bos")
        assertBad(edited("memory.peak_bytes", "1.5"))
        assertBad(edited("memory.peak_bytes", "1e30"))
        assertBad(edited("memory.peak_bytes", "99999999999999999999"))
        assertBad(edited("programs.0.max_context", "3000000000"), "programs[0].max_context")
        assertBad(edited("what.name", "7"))
        assertBad(edited("what.name", "null"))
        assertBad(edited("what.settings", "[]"))
        assertBad(edited("programs.0.soc", "\"SM8650\""))
        assertBad(edited("quality.perplexity.original", "NaN"))
        assertBad(edited("quality.perplexity.original", "1e999"))
    }

    @Test
    fun `free settings may hold anything`() {
        readManifest(edited("what.settings", """{"a": {"b": ["1", 1, 1.5, null, true, {"c": []}]}, "d": "7"}"""))
    }

    @Test
    fun `values out of range are refused, and the field is named`() {
        val wrong = listOf(
            "what.parameters" to "0",
            "what.created" to "\"yesterday\"",
            "what.source.files" to "{\"config.json\": \"abc\"}",
            "programs.0.methods" to "[]",
            "programs.0.max_context" to "0",
            "programs.0.prefill_chunk" to "0",
            "programs.0.delegates" to "-1",
            "tokenizer.kind" to "\"spm\"",
            "tokenizer.bos_id" to "-1",
            "tokenizer.eos_ids" to "[2, -2]",
            "chat.stop_strings" to "[\"\"]",
            "chat.sampling.temperature" to "-0.1",
            "chat.sampling.top_p" to "0",
            "chat.sampling.top_p" to "1.01",
            "chat.sampling.top_k" to "-1",
            "chat.sampling.min_p" to "1.5",
            "chat.sampling.repetition_penalty" to "0",
            "tasks.translate.max_new_tokens" to "0",
            "memory.weights_bytes" to "-1",
            "memory.kv_cache_bytes" to "-1",
            "memory.resident_bytes" to "-1",
            "memory.peak_bytes" to "-1",
            "memory.min_device_ram_bytes" to "-1",
            "quality.agreement.quantized.one_piece.positions" to "0",
            "quality.agreement.original.chunked.cosine" to "1.1",
            "quality.agreement.original.token_by_token.min_cosine" to "-1.1",
            "quality.agreement.quantized.chunked.max_abs_diff" to "-1",
            "quality.agreement.quantized.chunked.top1" to "1.5",
            "quality.tasks.translate.original" to "101",
            "quality.tasks.translate.deployed" to "-1",
            "quality.tasks.translate.items" to "0",
            "quality.greedy.prompts" to "0",
            "quality.greedy.equal" to "-1",
            "quality.greedy.tokens" to "-1",
            "quality.greedy.agreement" to "1.1",
            "quality.perplexity.original" to "0",
            "quality.perplexity.deployed" to "-2",
            "quality.text.tokens" to "0",
            "quality.text.window" to "1",
            "quality.text.stride" to "0",
            "quality.text.original" to "0",
            "quality.text.quantized.perplexity" to "0",
            "quality.text.deployed.top1" to "1.1",
            "quality.witness.name" to "\"us\"",
            "quality.witness.agreement.top1" to "1.1",
            "tokenizer.normalization" to "\"NFZ\"",
            "tokenizer.lstrip" to "[\"\"]",
            "tokenizer.rstrip" to "[\"\"]",
            "tokenizer.parity.strings" to "0",
            "quality.gate.passed" to "false",
            "speed.0.threads" to "0",
            "speed.0.prompt_tokens" to "0",
            "speed.0.decode_tokens" to "0",
            "speed.0.ttft_ms" to """{"p10": 1, "p50": -1, "p90": 1}""",
            "speed.0.program_rss_bytes" to "-1",
            "speed.0.peak_rss_bytes" to "-1",
            "speed.0.energy" to "-1",
            "stages.export.wall_s" to "-1",
            "stages.export.cpu_s" to "-1",
            "stages.export.peak_rss_bytes" to "-1",
            "samples.0.task" to "\"chess\"",
        )
        for ((path, value) in wrong) assertBad(edited(path, value), path)
        assertBad(edited("programs", "[]"), "programs")
        assertBad(edited("programs.0.file", "\"other.pte\""), "other.pte")
        assertBad(edited("programs.0.weights", "[\"model.ptd\"]"), "model.ptd")
        assertBad(edited("tokenizer.file", "\"other.json\""), "other.json")
    }

    private val hash = "a".repeat(64)

    private fun withFile(name: String, size: String = "1", sha256: String = hash): String {
        val entry = "\"$name\": {\"size\": $size, \"sha256\": \"$sha256\"}"
        return sampleManifest().replaceFirst("\"files\": {\"model", "\"files\": {$entry, \"model")
    }

    @Test
    fun `the list of files is checked`() {
        readManifest(withFile("other/file.bin"))
        assertBad(withFile("a", size = "-1"), "files.a.size")
        assertBad(withFile("a", size = Long.MAX_VALUE.toString()), "too large")
        assertBad(withFile("a", sha256 = hash.uppercase()), "sha256")
        assertBad(withFile("a", sha256 = hash.drop(1)), "sha256")
        assertBad(withFile("manifest.json"), "manifest.json")
        assertBad(withFile("manifest.json/a"), "manifest.json")
        assertBad(withFile("model"), "model")
        assertBad(withFile("tokenizer.json/a/b"), "tokenizer.json")
        val many = (0..1000).joinToString { "\"f$it\": {\"size\": 0, \"sha256\": \"$hash\"}" }
        assertBad(edited("files", "{$many}"), "1000")
    }

    @Test
    fun `unsafe paths`() {
        val unsafe = listOf(
            "", ".", "..", "../a", "a/..", "a/../b", "a/./b", "/a", "a/", "a//b", "a\\b", "..\\a", "C:a", "C:/a",
            "c:\\a",
            "a\u0000b", "a\nb", "a\tb", "a\u007fb", "a\u00a0b", "a\u200bb", "a\u202eb", "a\u2028b", "a\ud800b",
            "a\ue000b",
            "x".repeat(241), "é".repeat(121), "//server/share",
        )
        for (name in unsafe) {
            assertTrue("'$name'", problemOf { checkName(name) } is Problem.UnsafePath)
        }
        for (name in listOf("a", "a b", "a/b/c.d", ".hidden", "...", "a..b", "ü/中文", "x".repeat(240), "ab:c", "😀")) {
            checkName(name)
        }
        assertEquals(Problem.UnsafePath("../evil"), problemOf { readManifest(withFile("../evil")) })
        val source = edited("what.source.files", "{\"../x\": \"$hash\"}")
        assertEquals(Problem.UnsafePath("../x"), problemOf { readManifest(source) })
    }

    private companion object {
        /** The fields that versions 1 and 2 lack. */
        val VERSION_3 = listOf(
            "recipe", "hexagon", "signature", "notice", "twin", "delegated_operators", "fallback_reasons", "memory",
            "quality", "speed", "stages",
        ).map { "programs.0.$it" } + "quality.greedy"
        val VERSION_5 =
            listOf("quality.witness") +
                listOf("bos_token", "normalization", "lstrip", "rstrip", "parity").map { "tokenizer.$it" }
    }
}
