package org.etpipeline.demo.engine

import java.io.File
import kotlin.random.Random
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.Answer
import org.etpipeline.core.ChatSession
import org.etpipeline.core.Generation.End
import org.etpipeline.core.Sampling
import org.etpipeline.core.fill
import org.etpipeline.core.grammar.Grammar
import org.etpipeline.core.grammarOf
import org.etpipeline.core.readManifest
import org.etpipeline.engine.ModuleEngine
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** The built-in model always says when a doctor is needed, and nothing worse than without being held to it. */
class SymptomCheckTest {
    private val folder = File(checkNotNull(System.getProperty("et.bundle")))
    private val manifest = readManifest(File(folder, "manifest.json").readText())
    private val task = manifest.tasks.getValue("symptom_check")
    private val grammar = checkNotNull(manifest.grammarOf("symptom_check"))
    private val engine = ModuleEngine(folder, manifest.programs.first(), manifest.tokenizer, Int.MAX_VALUE)
    private val form = Regex("""[^\n]{5,250}\nSee a doctor [^\n]{5,160}""")

    @After fun close() = engine.close()

    private fun ask(complaint: String, sampling: Sampling, grammar: Grammar?): Answer = runBlocking {
        ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
            .ask(task.fill(complaint), task.maxNewTokens, sampling, grammar)
    }

    @Test fun `every answer is of that form, however wild`() {
        val random = Random(1)
        val words = "I my cat has a headache since yesterday for two months broken heart chest pain 39 degrees what ?".split(' ')
        var wouldNot = 0
        repeat(50) { run ->
            val complaint = if (run % 2 == 0) "I have had a cough for two weeks." else List(8) { words.random(random) }.joinToString(" ")
            val answer = ask(complaint, Sampling(temperature = 1.5f), grammar)
            assertTrue("'$complaint': '${answer.text}'", form.matches(answer.text))
            assertTrue(answer.generation.end in listOf(End.MODEL, End.LENGTH))
            if (!form.matches(ask(complaint, Sampling(temperature = 1.5f), null).text)) wouldNot++
        }
        println("of 50 answers that were held to nothing $wouldNot had another form")
    }

    @Test fun `what the model says of itself stays as it was`() {
        val symptoms = listOf("a headache", "a cough", "a rash", "back pain", "chest pain", "a fever", "heartburn")
        for (symptom in symptoms) for (time in listOf("since yesterday", "for two months")) {
            val complaint = "I have had $symptom $time."
            val greedy = Sampling()
            assertEquals(ask(complaint, greedy, null).text, ask(complaint, greedy, grammar).text)
        }
    }

    @Test fun `nothing else is held to anything`() {
        for (task in manifest.tasks.keys - "symptom_check") assertNull(manifest.grammarOf(task))
        val other = manifest.what.copy(source = manifest.what.source.copy(source = "some/model"))
        assertNull(manifest.copy(what = other).grammarOf("symptom_check"))
    }
}
