package org.etpipeline.engine

import java.io.File
import org.etpipeline.core.BundleException
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.reachOf

/**
 * The engine that runs [program] of the bundle in [folder]; nothing is loaded yet.
 *
 * @param slot of a program that takes adapters: a file of the app's own, which the engine makes, for
 *   [LlmModuleEngine.adapt].
 * @throws BundleException [Problem.NoChatModel]: the bundle embeds texts; [EmbeddingEngine] does that.
 */
fun openEngine(folder: File, manifest: Manifest, program: Program, slot: File? = null): LlmEngine {
    if (manifest.embedding != null) throw BundleException(Problem.NoChatModel(manifest.what.name))
    val weights = program.weights.singleOrNull()
    if (weights == null) return ModuleEngine(folder, program, manifest.tokenizer, reachOf(program, manifest.memoryOf(program)))
    return LlmModuleEngine(
        program = File(folder, program.file),
        tokenizer = File(folder, manifest.tokenizer.file),
        maxContext = program.maxContext,
        specialTokens = manifest.tokenizer.specialTokens,
        weights = File(folder, weights),
        bosToken = manifest.tokenizer.bosToken,
        normalization = manifest.tokenizer.normalization,
        lstrip = manifest.tokenizer.lstrip,
        rstrip = manifest.tokenizer.rstrip,
        slot = slot,
    )
}
