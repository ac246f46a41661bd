package org.etpipeline.demo.sharing

import android.app.Application
import android.os.Binder
import android.os.IBinder
import android.os.Parcel
import java.util.concurrent.ConcurrentLinkedQueue
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.channels.Channel
import org.etpipeline.core.Answer
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.AskRequest
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Generation
import org.etpipeline.core.Message
import org.etpipeline.core.Problem
import org.etpipeline.core.Refusal
import org.etpipeline.core.Role
import org.etpipeline.engine.AskBinder
import org.etpipeline.engine.AskContract
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowBinder

/** The answering end, with real parcels, asked from other processes; see [OtherProcess] for what of that is made up. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = Application::class)
class AskBinderTest {
    private val begun = ConcurrentLinkedQueue<String>()
    private val cancelled = ConcurrentLinkedQueue<String>()
    private val words = Channel<String>(Channel.UNLIMITED) // what the model says next; "" ends the answer
    private var permitted = setOf(PERMITTED)

    private val service = AskBinder({ it in permitted }, { "No: $it" }) { _, request, onText ->
        val question = request.messages.last().text
        begun += question
        var text = ""
        try {
            while (true) {
                val word = words.receive()
                when (word) {
                    "" -> break
                    "broken" -> throw EngineException(Problem.BrokenText)
                    "odd" -> throw IllegalStateException("odd")
                    "gone" -> throw BundleException(Problem.NoModel)
                }
                text += word
                onText(word)
            }
        } catch (error: CancellationException) {
            cancelled += question
            throw error
        }
        Answer(text, Generation(7, 2, 1.0, 1.0, Generation.End.MODEL), 1, false)
    }
    private val binder = OtherProcess(service)

    init {
        ShadowBinder.setCallingUid(PERMITTED)
    }

    @After fun close() = service.close()

    private fun say(vararg said: String) = said.forEach { words.trySend(it) }

    private fun json(question: String) = AskRequest(listOf(Message(Role.USER, question))).toJson()

    private fun askAs(listener: IBinder, question: String) = binder.call(AskContract.ASK, AskContract.SERVICE) {
        writeInt(AskContract.VERSION)
        writeStrongBinder(listener)
        writeString(json(question))
    }

    private fun ask(question: String) = Asker().apply { call(this@AskBinderTest.binder, json = json(question)) }

    /** Waits for other threads. */
    private fun waitFor(what: String, condition: () -> Boolean) {
        val end = System.nanoTime() + 30_000_000_000
        while (!condition()) {
            assertTrue("it takes too long: $what", System.nanoTime() < end)
            Thread.sleep(2)
        }
    }

    private fun Asker.told(): Asker {
        waitFor("the end of an answer") { isTold }
        binder.settle()
        return this
    }

    @Test
    fun `an answer comes piece by piece, then what it took`() {
        val asker = ask("Italy?")
        say("Ro")
        waitFor("the first piece") { asker.text == "Ro" }
        assertNull(asker.end)
        say("me \uD83D\uDE00.", "")
        asker.told()
        assertEquals("Rome \uD83D\uDE00.", asker.text)
        val took = Answer(asker.text, Generation(7, 2, 1.0, 1.0, Generation.End.MODEL), 1, false)
        assertEquals(AnswerEnd(took), asker.end)
        waitFor("its death is of no interest any more") { !asker.binder.isWatched }
    }

    @Test
    fun `a question that is cancelled ends, and nothing is said of it any more`() {
        val asker = ask("Italy?")
        say("Ro")
        waitFor("the first piece") { asker.text == "Ro" }
        asker.call(binder, AskContract.CANCEL)
        waitFor("the end") { "Italy?" in cancelled }
        val next = ask("Spain?")
        say("Madrid", "")
        assertEquals("Madrid", next.told().text)
        assertEquals("Ro", asker.text)
        assertFalse(asker.isTold)
    }

    @Test
    fun `nobody cancels another one's question`() {
        val asker = ask("Italy?")
        waitFor("its turn") { "Italy?" in begun }
        Asker().call(binder, AskContract.CANCEL)
        binder.settle()
        say("Rome", "")
        assertEquals("Rome", asker.told().text)
    }

    @Test
    fun `when the app that asked dies, the answer ends`() {
        val asker = ask("Italy?")
        waitFor("its turn") { "Italy?" in begun }
        val waiting = ask("Spain?")
        waitFor("it is watched") { waiting.binder.isWatched }
        waiting.binder.die() // one that still waits never begins
        asker.binder.die()
        waitFor("the end") { "Italy?" in cancelled }
        val next = ask("France?")
        say("Paris", "")
        next.told()
        assertEquals(listOf("Italy?", "France?"), begun.toList())
    }

    @Test
    fun `an app that was dead before it was heard is not answered`() {
        val asker = Asker()
        asker.binder.die()
        asker.call(binder, json = json("Italy?"))
        binder.settle()
        val next = ask("Spain?")
        say("Madrid", "")
        next.told()
        assertEquals(listOf("Spain?"), begun.toList())
    }

    @Test
    fun `an app that takes nothing any more is not answered further, and hears so when it has room again`() {
        val asker = ask("Italy?")
        waitFor("its turn") { "Italy?" in begun }
        asker.binder.isFull = true
        say("Ro")
        waitFor("the end") { "Italy?" in cancelled }
        val next = ask("Spain?") // does not wait for that
        say("Madrid", "")
        assertEquals("Madrid", next.told().text)
        asker.binder.isFull = false
        assertEquals(Refusal.Reason.FAILED, asker.told().refusal?.reason)
    }

    @Test
    fun `an end that found no room is said when there is some`() {
        val asker = ask("Italy?")
        say("Rome")
        waitFor("the answer") { asker.text == "Rome" }
        asker.binder.isFull = true
        say("")
        val next = ask("Spain?")
        waitFor("the next one's turn") { "Spain?" in begun }
        asker.binder.isFull = false
        assertEquals(2, asker.told().end?.stats?.tokens)
        say("")
        next.told()
    }

    @Test
    fun `who cancels a question whose end found no room hears nothing more of it`() {
        val asker = ask("Italy?")
        waitFor("its turn") { "Italy?" in begun }
        asker.binder.isFull = true
        say("Ro")
        waitFor("the end") { "Italy?" in cancelled }
        asker.call(binder, AskContract.CANCEL)
        binder.settle()
        asker.binder.isFull = false
        waitFor("its death is of no interest any more") { !asker.binder.isWatched }
        asker.binder.settle()
        assertFalse(asker.isTold)
    }

    @Test
    fun `who names the service itself as the one that listens is not answered`() {
        askAs(service, "Italy?")
        binder.settle()
        val next = ask("Spain?")
        say("Madrid", "")
        assertEquals("Madrid", next.told().text)
        assertEquals(listOf("Spain?"), begun.toList())
    }

    @Test
    fun `a Binder of the service's own process that throws ends the question, and nothing else`() {
        val throwing = object : IBinder by Binder() { // Robolectric's own Binder would say nothing
            override fun transact(code: Int, data: Parcel, reply: Parcel?, flags: Int): Boolean =
                throw SecurityException("Binder invocation to an incorrect interface")
        }
        askAs(throwing, "Italy?")
        say("Ro")
        waitFor("the end") { "Italy?" in cancelled }
        val next = ask("Spain?")
        say("Madrid", "")
        assertEquals("Madrid", next.told().text)
    }

    @Test
    fun `one question at a time, in order, and a few wait`() {
        val questions = List(AskContract.MOST_WAITING + 1) { "Question $it?" }
        val askers = questions.map(::ask)
        binder.settle()
        val refused = ask("One too many?").told()
        assertEquals(Refusal.Reason.BUSY, refused.refusal?.reason)
        assertEquals("No: ${Problem.TooManyQuestions(4)}", refused.refusal?.sentence)
        waitFor("the first turn") { begun.isNotEmpty() }
        assertEquals(listOf("Question 0?"), begun.toList())
        for ((index, asker) in askers.withIndex()) {
            say("Answer $index", "")
            assertEquals("Answer $index", asker.told().text)
        }
        assertEquals(questions, begun.toList())
        val later = ask("And now?")
        say("Yes", "")
        assertEquals("Yes", later.told().text)
    }

    @Test
    fun `an app without the permission is refused, also if it was handed the Binder`() {
        permitted = emptySet()
        assertEquals(Refusal.Reason.NOT_ALLOWED, ask("Italy?").told().refusal?.reason)
        assertEquals(emptyList<String>(), begun.toList())
    }

    @Test
    fun `a question in a newer version is refused, whatever is in it`() {
        val asker = Asker()
        asker.call(binder, json = "no JSON", version = AskContract.VERSION + 1)
        assertEquals(Refusal.Reason.OTHER_VERSION, asker.told().refusal?.reason)
    }

    @Test
    fun `what is too long or no question is refused, and nothing else happens`() {
        val sent = mapOf(
            json("a".repeat(AskRequest.LONGEST)) to Refusal.Reason.TOO_LONG,
            "a".repeat(4 * AskRequest.LONGEST) to Refusal.Reason.TOO_LONG, // not even read
            "" to Refusal.Reason.BAD_REQUEST,
            json(" ") to Refusal.Reason.BAD_REQUEST,
        )
        for ((json, reason) in sent) {
            val asker = Asker().apply { call(this@AskBinderTest.binder, json = json) }
            assertEquals(reason, asker.told().refusal?.reason)
        }
        assertEquals(emptyList<String>(), begun.toList())
    }

    @Test
    fun `who asks twice with one listener gets neither answer, as they could not be told apart`() {
        val asker = ask("Italy?")
        waitFor("its turn") { "Italy?" in begun }
        asker.call(binder, json = json("Spain?"))
        assertEquals(Refusal.Reason.BAD_REQUEST, asker.told().refusal?.reason)
        waitFor("the end") { "Italy?" in cancelled }
        assertEquals(listOf("Italy?"), begun.toList())
    }

    @Test
    fun `it says what contract it answers, and knows no other calls`() {
        // That a call names this contract Robolectric does not check.
        assertEquals(AskContract.SERVICE, binder.interfaceDescriptor)
        val data = Parcel.obtain()
        assertFalse(service.transact(99, data, null, 0))
    }

    @Test
    fun `what goes wrong with the model is said, with what came before it`() {
        val asker = ask("Italy?")
        say("Ro", "broken")
        asker.told()
        assertEquals("Ro", asker.text)
        assertEquals(Refusal(Refusal.Reason.FAILED, "No: ${Problem.BrokenText}"), asker.refusal)
        val next = ask("Spain?")
        say("gone")
        assertEquals(Refusal.Reason.NO_MODEL, next.told().refusal?.reason)
        val last = ask("France?")
        say("odd")
        val odd = Problem.EngineFailed("java.lang.IllegalStateException: odd")
        assertEquals(Refusal(Refusal.Reason.FAILED, "No: $odd"), last.told().refusal)
    }

    @Test
    fun `all can be refused at once, and later ones are answered`() {
        val askers = listOf(ask("Italy?"), ask("Spain?"))
        waitFor("the first turn") { "Italy?" in begun }
        binder.settle()
        service.refuseAll(Problem.AskingIsOff)
        for (asker in askers) assertEquals(Refusal.Reason.OFF, asker.told().refusal?.reason)
        waitFor("the end") { "Italy?" in cancelled }
        val next = ask("France?")
        say("Paris", "")
        assertEquals("Paris", next.told().text)
    }

    @Test
    fun `one that was closed refuses whoever still asks`() {
        val asker = ask("Italy?")
        waitFor("its turn") { "Italy?" in begun }
        service.close()
        waitFor("the end") { "Italy?" in cancelled }
        assertEquals(Refusal.Reason.FAILED, ask("Spain?").told().refusal?.reason)
        assertEquals(listOf("Italy?"), begun.toList())
        assertFalse(asker.text.isNotEmpty())
    }

    private companion object {
        const val PERMITTED = 10_123
    }
}
