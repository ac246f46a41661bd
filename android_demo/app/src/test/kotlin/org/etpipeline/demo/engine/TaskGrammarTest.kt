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
import org.etpipeline.core.splitReplies
import org.etpipeline.engine.ModuleEngine
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** What answers to tasks are held to: it always comes, and makes nothing worse. */
class TaskGrammarTest {
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

    /** Held to nothing, 7 of such 50 answers had another form. */
    @Test fun `a symptom check always says when a doctor is needed, however wild it is`() {
        val random = Random(1)
        val words = "I my cat has a headache since yesterday for two months broken heart chest pain 39 what ?".split(' ')
        repeat(50) { run ->
            val noise = List(8) { words.random(random) }.joinToString(" ")
            val complaint = if (run % 2 == 0) "I have had a cough for two weeks." else noise
            val answer = ask(complaint, Sampling(temperature = 1.5f), grammar)
            assertTrue("'$complaint': '${answer.text}'", form.matches(answer.text))
            assertTrue(answer.generation.end in listOf(End.MODEL, End.LENGTH))
        }
    }

    @Test fun `what the model says of itself stays as it was`() {
        val symptoms = listOf("a headache", "a cough", "a rash", "back pain", "chest pain", "a fever", "heartburn")
        for (symptom in symptoms) for (time in listOf("since yesterday", "for two months")) {
            val complaint = "I have had $symptom $time."
            val greedy = Sampling()
            assertEquals(ask(complaint, greedy, null).text, ask(complaint, greedy, grammar).text)
        }
    }

    private val other = manifest.copy(
        what = manifest.what.copy(source = manifest.what.source.copy(source = "some/model")),
        quality = manifest.quality.copy(tasks = emptyMap()),
    )

    @Test fun `three replies come from a model that was not taught to give them`() {
        val grammar = checkNotNull(other.grammarOf("smart_reply"))
        val smartReply = manifest.tasks.getValue("smart_reply")
        repeat(20) { run ->
            val sampling = Sampling(temperature = if (run == 0) 0f else 1.5f)
            val answer = runBlocking {
                ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
                    .ask(smartReply.fill("Can you come at eight?"), smartReply.maxNewTokens, sampling, grammar)
            }
            val lines = answer.text.lines()
            assertEquals(answer.text, listOf("1.", "2.", "3."), lines.map { it.take(2) })
            assertEquals(lines.map { it.drop(3).trim() }.distinct().size, splitReplies(answer.text).size)
        }
    }

    @Test fun `nothing else is held to anything`() {
        for (task in manifest.tasks.keys - "symptom_check") assertNull(task, manifest.grammarOf(task))
        for (task in manifest.tasks.keys - "smart_reply") assertNull(task, other.grammarOf(task))
        val thinks = other.chat.copy(segments = other.chat.segments.copy(userToAssistant = "<A><think>\n"))
        assertNull(other.copy(chatPart = thinks).grammarOf("smart_reply"))
    }
}
