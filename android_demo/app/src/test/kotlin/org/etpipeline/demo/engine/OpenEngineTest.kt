package org.etpipeline.demo.engine

import java.io.File
import org.etpipeline.core.readManifest
import org.etpipeline.demo.bundleFolder
import org.etpipeline.engine.LlmModuleEngine
import org.etpipeline.engine.ModuleEngine
import org.etpipeline.engine.openEngine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class OpenEngineTest {
    @get:Rule val temporary = TemporaryFolder()

    private val manifest = readManifest(File(bundleFolder, "manifest.json").readText())
    private val program = manifest.programs.first()

    /** Two cores, as Linux on arm64 tells of them. */
    private fun processors(vararg features: String) = temporary.newFile().apply {
        writeText(features.withIndex().joinToString("") { (at, each) ->
            "processor\t: $at\nBogoMIPS\t: 38.40\nFeatures\t: $each\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n\n"
        })
    }

    private fun engineOn(architecture: String, processors: File) =
        openEngine(bundleFolder, manifest, program, architecture = architecture, processors = processors)
            .use { it::class }

    @Test fun `cores of ARMv8_0 get the engine that does not end the app`() {
        val old = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
        val newer = "$old atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
        assertEquals(LlmModuleEngine::class, engineOn("aarch64", processors(old, old)))
        assertEquals(LlmModuleEngine::class, engineOn("aarch64", processors(old, newer)))
        assertEquals(ModuleEngine::class, engineOn("aarch64", processors(newer, newer)))
        assertEquals(LlmModuleEngine::class, engineOn("aarch64", File(temporary.root, "hidden")))
        assertEquals(ModuleEngine::class, engineOn("amd64", processors(old)))
    }

    @Test fun `weights that lie beside the program want the other engine`() {
        val beside = program.copy(weights = listOf("model.ptd"))
        assertTrue(openEngine(bundleFolder, manifest, beside).use { it is LlmModuleEngine })
    }
}
