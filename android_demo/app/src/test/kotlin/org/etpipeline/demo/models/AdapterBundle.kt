package org.etpipeline.demo.models

import java.io.File

/** The program of `tools/adapters.py`, and its files. */
val adaptersFolder: File
    get() {
        val references = checkNotNull(System.getProperty("et.references")) { "run with --references" }
        return File(references).resolveSibling("adapters")
    }

/** A bundle whose program takes adapters, with the one called `b` inside. */
val adapterBundle: TestBundle by lazy {
    val files = listOf("model.pte", "model.ptd", "b.ptd").associateWith { File(adaptersFolder, it).readBytes() }
    val agreement =
        """{"positions": 9, "cosine": 0.99, "min_cosine": 0.9, "max_abs_diff": 2, "kl": 0.02, "top1": 0.975}"""
    val adapter = """{
        "name": "b", "file": "b.ptd", "program": "model.pte", "rank": 4, "base": null, "source": {},
        "about": "Words at random", "samples": [], "quality": {
            "agreement": $agreement, "greedy": {"prompts": 2, "equal": 1, "tokens": 9, "agreement": 0.5},
            "gate": {"thresholds": {}, "checks": [], "passed": true}
        }
    }"""
    var made = TestBundle.whole.without(PROGRAM).edited("files", "{}")
    for ((name, content) in files + (TOKENIZER to made.files.getValue(TOKENIZER))) {
        val info = """{"size": ${content.size}, "sha256": "${sha256(content)}"}"""
        made = made.with(name, content).edited("files", made.filesWith(name, info))
    }
    val fields = mapOf(
        "version" to "11", "what.name" to "\"adaptable\"", "programs.0.file" to "\"model.pte\"",
        "programs.0.weights" to "[\"model.ptd\"]", "programs.0.adapter_rank" to "4", "programs.0.max_context" to "256",
        "programs.0.prefill_chunk" to "64", "adapters" to "[$adapter]",
    )
    fields.entries.fold(made) { bundle, (path, value) -> bundle.edited(path, value) }
}
