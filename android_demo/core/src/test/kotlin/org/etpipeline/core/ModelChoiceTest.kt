package org.etpipeline.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** [chooseProgram] and [memoryFit]: which model runs on which phone. */
class ModelChoiceTest {
    private val sample = readManifest(sampleManifest())
    private val general = sample.programs.single()
    private val npu = general.copy(file = "q.pte", backend = "qnn", soc = listOf("SM8550", "sm8650"), qairt = "v2.49.40")
    private val phone = PhoneFacts("Phone 7", "SM8650", listOf("xnnpack", "qnn"), "1.3.1", "v2.49.40")

    private fun of(vararg programs: Program) = sample.copy(programs = programs.toList())

    private fun problemOf(block: () -> Unit) = assertThrows(BundleException::class.java) { block() }.problem

    @Test
    fun `the first that fits`() {
        val second = general.copy(file = "b.pte")
        assertEquals(general, chooseProgram(of(general, second), phone))
        assertEquals(second, chooseProgram(of(general.copy(backend = "vulkan"), second), phone))
    }

    @Test
    fun `one for this chip before one for any`() {
        assertEquals(npu, chooseProgram(of(general, npu), phone))
        assertEquals(npu, chooseProgram(of(npu.copy(soc = listOf("SM8750")), npu, general), phone))
        assertEquals(general, chooseProgram(of(npu, general), phone.copy(soc = "SM9999")))
        assertEquals(general, chooseProgram(of(npu, general), phone.copy(backends = listOf("XNNPACK"))))
        assertEquals(general, chooseProgram(of(npu.copy(minRuntime = "2.0"), general), phone))
    }

    @Test
    fun `none fits`() {
        val other = npu.copy(soc = listOf("SM8550"))
        assertEquals(
            Problem.NoProgram(listOf("qnn", "vulkan"), listOf("SM8550"), "Phone 7"),
            problemOf { chooseProgram(of(other, general.copy(backend = "vulkan")), phone) },
        )
        assertTrue(problemOf { chooseProgram(of(other), phone.copy(soc = "")) } is Problem.NoProgram)
        assertEquals(
            "another chip would not help",
            Problem.NoProgram(listOf("qnn"), emptyList(), "Phone 7"),
            problemOf { chooseProgram(of(npu), phone.copy(backends = listOf("xnnpack"))) },
        )
    }

    @Test
    fun `what is called in another way is passed over, and named if nothing else fits`() {
        val cache = npu.copy(file = "cache.pte", signature = "tokens_cache")
        val mask = npu.copy(file = "mask.pte", signature = "tokens_mask")
        assertEquals(general, chooseProgram(of(cache, general), phone))
        assertEquals(npu, chooseProgram(of(cache, npu, general), phone))
        assertEquals(
            Problem.OtherSignature(listOf("cache.pte", "mask.pte"), listOf("tokens_cache", "tokens_mask")),
            problemOf { chooseProgram(of(cache, mask, general.copy(backend = "vulkan")), phone) },
        )
        assertTrue(problemOf { chooseProgram(of(cache, npu.copy(minRuntime = "9")), phone) } is Problem.RuntimeTooOld)
        assertTrue(problemOf { chooseProgram(of(cache), phone.copy(soc = "SM9999")) } is Problem.NoProgram)
    }

    @Test
    fun `a model that embeds may want padded texts`() {
        val manifest = readManifest(embeddingManifest())
        val mask = manifest.programs.single().copy(signature = "tokens_mask")
        assertEquals(mask, chooseProgram(manifest.copy(programs = listOf(mask)), phone))
        val cache = manifest.copy(programs = listOf(mask.copy(signature = "tokens_cache")))
        assertTrue(problemOf { chooseProgram(cache, phone) } is Problem.OtherSignature)
    }

    @Test
    fun `Qualcomm's libraries in the app are at least those that the program needs`() {
        for (enough in listOf("v2.49.40", "2.49.40", "v2.49.41", "v2.50.0", "v2.100", "v3.0.0", "v2.49.40.250101")) {
            assertEquals(enough, npu, chooseProgram(of(npu, general), phone.copy(qairt = enough)))
        }
        for (tooOld in listOf("v2.49.39", "v2.9.99", "v1.99.99", "2.49", "v2", "", null)) {
            assertEquals("$tooOld", general, chooseProgram(of(npu, general), phone.copy(qairt = tooOld)))
            assertEquals(
                Problem.QairtTooOld("v2.49.40", tooOld),
                problemOf { chooseProgram(of(npu, npu.copy(qairt = "v2.50.1")), phone.copy(qairt = tooOld)) },
            )
        }
        assertEquals(general, chooseProgram(of(general), phone.copy(qairt = null)))
    }

    @Test
    fun `the runtime is too old`() {
        val programs = of(general.copy(minRuntime = "1.10.0"), general.copy(minRuntime = "1.4.0"))
        assertEquals(Problem.RuntimeTooOld("1.4.0", "1.3.1"), problemOf { chooseProgram(programs, phone) })
        chooseProgram(programs, phone.copy(runtime = "1.4"))
        chooseProgram(programs, phone.copy(runtime = "1.10.0+cpu"))
    }

    @Test
    fun `versions are compared by their numbers`() {
        assertTrue(compareVersions("1.10.0", "1.9.9") > 0)
        assertTrue(compareVersions("1.3", "1.3.0") == 0)
        assertTrue(compareVersions("1.3.0-rc1", "1.3.0+cpu") == 0)
        assertTrue(compareVersions("1.4.0a0", "1.3.9") > 0)
        assertTrue(compareVersions("v2.49.40", "2.49.40") == 0)
        assertTrue(compareVersions("x", "0") == 0)
    }

    private val gib = 1L shl 30
    private val memory = sample.memory.copy(peakBytes = 2 * gib, minDeviceRamBytes = 6 * gib)

    @Test
    fun `memory fits`() {
        assertEquals(Fit.FITS, memoryFit(memory, 6 * gib, 3 * gib))
        assertEquals("a 6 GB phone reports less", Fit.FITS, memoryFit(memory, 6 * gib * 90 / 100, 3 * gib))
        assertEquals(Fit.TOO_LARGE, memoryFit(memory, 6 * gib * 85 / 100, 3 * gib))
        assertEquals(Fit.TIGHT, memoryFit(memory, 6 * gib, gib))
        assertEquals(Fit.TOO_LARGE, memoryFit(memory.copy(peakBytes = 5 * gib), 6 * gib, 6 * gib))
    }

    @Test
    fun `too large is refused with the figures`() {
        requireMemory(memory, 6 * gib, gib)
        assertEquals(
            Problem.NotEnoughMemory(6 * gib, 4 * gib, gib),
            problemOf { requireMemory(memory, 4 * gib, gib) },
        )
        assertEquals(
            Problem.NotEnoughMemory(8 * gib, 8 * gib, gib),
            problemOf { requireMemory(memory.copy(peakBytes = 8 * gib), 8 * gib, gib) },
        )
    }
}
