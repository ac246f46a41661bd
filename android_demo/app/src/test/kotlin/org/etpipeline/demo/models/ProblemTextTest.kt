package org.etpipeline.demo.models

import android.app.Application
import org.etpipeline.core.Problem
import org.etpipeline.demo.LANGUAGES
import org.etpipeline.demo.fileSize
import org.etpipeline.demo.resourcesIn
import org.etpipeline.demo.text
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = Application::class)
class ProblemTextTest {
    /** One of each, with what its sentence has to mention. */
    private val problems = mapOf(
        Problem.NoManifest to listOf("manifest.json"),
        Problem.BadManifest("memory.peak_bytes is missing") to listOf("memory.peak_bytes is missing"),
        Problem.NewerManifest("7", 1) to listOf("7", "1"),
        Problem.NoChatModel("minilm") to listOf("minilm"),
        Problem.NoModel to emptyList(),
        Problem.BundleGone("phi-1234") to listOf("phi-1234"),
        Problem.MissingFile("a/b.pte") to listOf("a/b.pte"),
        Problem.UnexpectedFile("a/b.pte") to listOf("a/b.pte"),
        Problem.WrongSize("a/b.pte", 17, 42) to listOf("a/b.pte", "17", "42"),
        Problem.WrongHash("a/b.pte") to listOf("a/b.pte"),
        Problem.UnsafePath("../b.pte") to listOf("../b.pte"),
        Problem.DuplicateFile("a/b.pte") to listOf("a/b.pte"),
        Problem.DamagedZip to listOf(".zip"),
        Problem.EncryptedZip("secret.zip") to listOf("secret.zip"),
        Problem.ZipBomb("a/b.pte") to listOf("a/b.pte"),
        Problem.DamagedAdapter("b.ptd") to listOf("b.ptd", "et-bundle"),
        Problem.ForeignAdapter("b.ptd") to listOf("b.ptd", "et-bundle"),
        Problem.DuplicateAdapter("formal") to listOf("formal"),
        Problem.NoAdapter("formal", "tiny") to listOf("formal", "tiny"),
        Problem.NotEnoughSpace(7_000_000_000, 512_000_000) to listOf("7", "512"),
        Problem.NotEnoughMemory(6_000_000_000, 4_000_000_000, 912_000_000) to listOf("6", "4", "912"),
        Problem.NoProgram(listOf("qnn", "vulkan"), emptyList(), "Pixel 12") to listOf("qnn, vulkan", "Pixel 12"),
        Problem.NoProgram(listOf("qnn"), listOf("SM8650"), "Pixel 12") to listOf("qnn", "SM8650", "Pixel 12"),
        Problem.RuntimeTooOld("1.9.0", "1.3.1") to listOf("1.9.0", "1.3.1"),
        Problem.OtherSignature(listOf("a.pte", "b.pte"), listOf("tokens_cache")) to
            listOf("a.pte, b.pte", "tokens_cache", "xnnpack"),
        Problem.QairtTooOld("v2.49.40", "v2.31.0") to listOf("v2.49.40", "v2.31.0", "xnnpack"),
        Problem.QairtTooOld("v2.49.40", null) to listOf("v2.49.40", "xnnpack"),
        Problem.Interrupted to emptyList(),
        Problem.Storage("EIO") to listOf("EIO"),
        Problem.BadProgram("its end is missing") to listOf("its end is missing"),
        Problem.BadTokenizer("tokenizer.json") to listOf("tokenizer.json"),
        Problem.PromptTooLong to emptyList(),
        Problem.EngineFailed("error 1") to listOf("error 1"),
        Problem.EngineClosed to emptyList(),
        Problem.BrokenText to emptyList(),
        Problem.AskingIsOff to emptyList(),
        Problem.AskingNotAllowed to emptyList(),
        Problem.TooManyQuestions(4) to listOf("4"),
        Problem.QuestionTooLong(917, 800) to listOf("917", "800"),
        Problem.BadQuestion("a message is blank") to listOf("a message is blank"),
        Problem.NewerQuestion(3, 1) to listOf("3", "1"),
    )

    @Test
    fun `every problem has its sentence in every language`() {
        assertEquals(Problem::class.java.declaredClasses.toSet(), problems.keys.map { it.javaClass }.toSet())
        for (language in LANGUAGES) {
            val resources = resourcesIn(language)
            val sentences = problems.mapValues { (problem, mentions) ->
                val sentence = problem.text(resources)
                assertTrue("$language: $sentence", sentence.last() in ".。" && sentence.length > 20 && '%' !in sentence)
                assertTrue("$language: one sentence: $sentence", !Regex("""\. \p{L}|。.""").containsMatchIn(sentence))
                val western = sentence.map { if (it.isDigit()) it.digitToInt().digitToChar() else it }.joinToString("")
                for (mention in mentions) assertTrue("$language: $mention in: $sentence", mention in western)
                sentence
            }
            assertEquals("$language: no two problems alike", sentences.size, sentences.values.toSet().size)
        }
    }

    @Test
    fun `the languages differ`() {
        for (problem in problems.keys) {
            assertEquals("$problem", LANGUAGES.size, LANGUAGES.map { problem.text(resourcesIn(it)) }.toSet().size)
        }
    }

    @Test
    fun `sizes are short and in the language`() {
        val sizes = listOf(0L, 999, 1_000, 1_580_160, 125_214_000, 999_900_000, 7_845_000_000)
        assertEquals(
            listOf("0 byte", "999 byte", "1 kB", "1.6 MB", "125 MB", "1 GB", "7.8 GB"),
            sizes.map { resourcesIn("en").fileSize(it).replace('\u00a0', ' ') },
        )
        assertEquals("7,8 Go", resourcesIn("fr").fileSize(7_845_000_000).replace(Regex("[\u00a0\u202f]"), " "))
    }
}
