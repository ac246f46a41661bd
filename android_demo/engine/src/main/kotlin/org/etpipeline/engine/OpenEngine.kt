package org.etpipeline.engine

import java.io.File
import java.io.IOException
import org.etpipeline.core.BundleException
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.Program
import org.etpipeline.core.reachOf

/**
 * The engine that runs [program] of the bundle in [folder]; nothing is loaded yet. That over `Module` does more, and
 * runs neither programs whose weights lie beside them nor on every processor.
 *
 * @param slot of a program that takes adapters: a file of the app's own, which the engine makes, for
 *   [LlmModuleEngine.adapt].
 * @param architecture of the processor that it runs on, of which [processors] tells as Linux does.
 * @throws BundleException [Problem.NoChatModel]: the bundle embeds texts; [EmbeddingEngine] does that.
 */
fun openEngine(
    folder: File,
    manifest: Manifest,
    program: Program,
    slot: File? = null,
    architecture: String = System.getProperty("os.arch").orEmpty(),
    processors: File = File("/proc/cpuinfo"),
): LlmEngine {
    if (manifest.embedding != null) throw BundleException(Problem.NoChatModel(manifest.what.name))
    val weights = program.weights.singleOrNull()
    if (needsOnlyModule(program) && moduleRuns(architecture, processors)) {
        return ModuleEngine(folder, program, manifest.tokenizer, reachOf(program, manifest.memoryOf(program)))
    }
    return LlmModuleEngine(
        program = File(folder, program.file),
        tokenizer = File(folder, manifest.tokenizer.file),
        maxContext = program.maxContext,
        specialTokens = manifest.tokenizer.specialTokens,
        weights = weights?.let { File(folder, it) },
        bosToken = manifest.tokenizer.bosToken,
        normalization = manifest.tokenizer.normalization,
        lstrip = manifest.tokenizer.lstrip,
        rstrip = manifest.tokenizer.rstrip,
        slot = slot,
    )
}

/**
 * Whether a program goes through `LlmModule` here: then of sampling only the temperature counts, no answer is held to a
 * grammar, and a chat is fed from its beginning when another one was fed before.
 */
fun goesThroughLlmModule(program: Program): Boolean = !(needsOnlyModule(program) && moduleRuns())

private fun needsOnlyModule(program: Program): Boolean = program.weights.isEmpty()

/**
 * Whether `Module` runs on this processor: the arm64 library of ExecuTorch 1.3 has atomics of ARMv8.1 there, at which a
 * core of ARMv8.0 (Cortex-A53, A57, A72, A73) ends the process. `LlmModule` has none.
 */
fun moduleRuns(
    architecture: String = System.getProperty("os.arch").orEmpty(),
    processors: File = File("/proc/cpuinfo"),
): Boolean {
    if (architecture != "aarch64") return true
    val features = try {
        processors.readLines().filter { it.startsWith("Features") }.map { it.substringAfter(':').trim().split(' ') }
    } catch (_: IOException) {
        emptyList()
    }
    return features.isNotEmpty() && features.all { "atomics" in it }
}
