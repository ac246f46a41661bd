package org.etpipeline.core

import java.security.MessageDigest
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonObject

/** Files of a small bundle; the contents are no real program and tokenizer. */
internal val SAMPLE_FILES: Map<String, ByteArray> = mapOf(
    "model/xnnpack.pte" to ByteArray(70_000) { (it * 31 + it / 251).toByte() },
    "tokenizer.json" to """{"model": {}}""".toByteArray(),
)

/** A manifest in which nothing is left out. */
internal fun sampleManifest(files: Map<String, ByteArray> = SAMPLE_FILES, name: String = "Small model"): String {
    val listed = files.map { (file, content) ->
        """"$file": {"size": ${content.size}, "sha256": "${sha256Of(content)}"}"""
    }
    val agreement =
        """{"positions": 144, "cosine": 0.99, "min_cosine": 0.98, "max_abs_diff": 2.5, "kl": 0.02, "top1": 1}"""
    val ways = """{"one_piece": $agreement, "chunked": $agreement, "token_by_token": $agreement}"""
    val figures = """{"p10": 4.4, "p50": 5, "p90": 5.6}"""
    return """
        {
          "format": "et_pipeline.bundle",
          "version": 7,
          "what": {
            "task": "text-generation",
            "name": "$name", "family": "llama", "architecture": "LlamaForCausalLM", "parameters": 1967808,
            "licence": "apache-2.0", "created": "2025-01-31",
            "source": {"source": "some/model", "revision": null, "files": {"config.json": "${"0".repeat(64)}"}},
            "tools": {"torch": "2.0"},
            "settings": {"seed": 0, "nested": {"list": [1, "1", null, true]}}
          },
          "files": {${listed.joinToString()}},
          "programs": [{
            "file": "model/xnnpack.pte", "weights": [], "backend": "xnnpack", "recipe": "8da4w-g32",
            "source_quantization": {
              "form": "gptq (4 bits)", "kept": {"weights": 1000, "error": 0.001}, "requantized": null
            },
            "soc": [], "hexagon": null, "methods": ["forward"], "signature": "tokens", "max_context": 512, "prefill_chunk": 128,
            "min_runtime": "1.3.0", "qairt": null, "notice": null, "executed": true, "twin": false, "delegates": 8,
            "delegated_operators": {"aten::linear": 7}, "fallback_operators": {"aten::add.out": 1},
            "fallback_reasons": {"aten::add.out": "integers"}, "memory": null, "quality": null, "speed": [],
            "stages": {}
          }],
          "tokenizer": {
            "file": "tokenizer.json", "kind": "hf-json", "bos_id": 1, "bos_token": "<|begin|>", "eos_ids": [2], "adds_bos": false,
            "special_tokens": ["<|begin|>", "<|end|>"], "normalization": "NFC",
            "lstrip": ["<|begin|>"], "rstrip": ["<|end|>"],
            "parity": {
              "runtime": "pytorch_tokenizers 1.5.0", "strings": 600, "mended": ["NFC is left to the caller"],
              "android": ["ignore_merges is not known"]
            }
          },
          "chat": {
            "segments": {
              "system_prefix": "<|begin|>", "system_to_user": "<|end|>", "start_to_user": "<|begin|>",
              "user_to_assistant": "<|end|>", "assistant_to_user": "<|end|>", "user_to_past_assistant": "<|end|>",
              "supports_system": true, "frozen_date": null
            },
            "add_bos": false, "stop_strings": ["User:"],
            "sampling": {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.05}, "system_prompt": null
          },
          "embedding": null,
          "tasks": {"translate": {
            "title": "Translate", "template": "Translate to {language}: {text}", "max_new_tokens": 48,
            "choices": {"language": ["French", "German"]}, "disclaimer": null
          }},
          "memory": {
            "weights_bytes": 1580160, "kv_cache_bytes": 1048576, "resident_bytes": 10498048, "peak_bytes": 12078208,
            "min_device_ram_bytes": 1024156416
          },
          "quality": {
            "agreement": {"quantized": $ways, "original": $ways},
            "embedding": null,
            "greedy": {"prompts": 21, "equal": 20, "tokens": 300, "agreement": 0.98},
            "tasks": {"translate": {"original": 97.0, "deployed": 98.0, "items": 100}},
            "perplexity": {"original": 1.01, "deployed": 1.02},
            "text": {
              "source": "notes.txt", "tokens": 2047, "window": 512, "stride": 256, "original": 9.5,
              "quantized": {"perplexity": 9.9, "kl": 0.03, "top1": 0.96},
              "deployed": {"perplexity": 9.9, "kl": 0.03, "top1": 0.96}
            },
            "witness": {
              "name": "transformers", "version": "5.0", "layers": [0, 15, 31], "agreement": $agreement, "note": null
            },
            "gate": {
              "thresholds": {"max_task_drop": 1.0},
              "checks": [{"name": "drop", "value": -1.0, "threshold": 1.0, "interval": [-2.0, 0.5], "passed": true}],
              "passed": true
            }
          },
          "speed": [{
            "where": "a phone", "threads": 2, "prompt_tokens": 64, "decode_tokens": 48, "load_ms": $figures,
            "ttft_ms": $figures, "prefill_tok_s": $figures, "decode_tok_s": $figures, "program_rss_bytes": 1,
            "peak_rss_bytes": 2, "energy": null
          }],
          "stages": {"export": {"wall_s": 13.45, "cpu_s": 13, "peak_rss_bytes": 1014378496}},
          "samples": [{"task": "translate", "prompt": "Translate to French: Hello", "answer": "Bonjour"}]
        }
    """.trimIndent()
}

/** The same of a model that embeds texts. */
internal fun embeddingManifest(): String {
    var text = edited("what.task", "\"embedding\"")
    for (field in listOf("chat", "tasks", "samples", "speed")) text = edited(field, null, text)
    for (field in listOf("agreement", "text", "tasks", "greedy", "perplexity")) text = edited("quality.$field", null, text)
    val agreement =
        """{"texts": 32, "cosine": 0.99, "min_cosine": 0.98, "max_abs_diff": 0.1, "rank_correlation": 0.98}"""
    text = edited("quality.embedding", """{"quantized": $agreement, "original": $agreement}""", text)
    text = edited("quality.witness.agreement", agreement, text)
    val figures = """{"p10": 4.4, "p50": 5, "p90": 5.6}"""
    val embedding = """{
        "dimension": 384, "dimensions": [128], "prompts": {"query": "q: ", "all": "all: "}, "default_prompt": "all",
        "pooling": "mean", "normalised": true, "max_tokens": 256,
        "speed": [{
            "where": "a phone", "threads": 2, "tokens": 64, "load_ms": $figures, "text_ms": $figures,
            "program_rss_bytes": 1, "peak_rss_bytes": 2
        }],
        "samples": [{"first": "a", "second": "b", "cosine": 0.5}]
    }"""
    return edited("embedding", embedding, text)
}

internal fun sha256Of(content: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }

/** A manifest's text with the value at [path] (`programs.0.soc`) replaced; null takes it out. */
internal fun edited(path: String, value: String?, text: String = sampleManifest()): String {
    fun edit(element: JsonElement, keys: List<String>): JsonElement {
        val key = keys.first()
        val inner = { child: JsonElement? ->
            if (keys.size == 1) Json.parseToJsonElement(value ?: "null") else edit(child!!, keys.drop(1))
        }
        return if (element is JsonArray) {
            JsonArray(element.mapIndexed { index, child -> if (index == key.toInt()) inner(child) else child })
        } else {
            val fields = element.jsonObject
            JsonObject(if (keys.size == 1 && value == null) fields - key else fields + (key to inner(fields[key])))
        }
    }
    return edit(Json.parseToJsonElement(text), path.split('.')).toString()
}
