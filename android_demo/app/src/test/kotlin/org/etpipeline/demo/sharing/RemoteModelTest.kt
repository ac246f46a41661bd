package org.etpipeline.demo.sharing

import android.app.Application
import android.content.ComponentName
import android.os.Binder
import android.os.IBinder
import android.os.Parcel
import androidx.test.core.app.ApplicationProvider
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.async
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.AnswerStats
import org.etpipeline.core.AskRequest
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Message
import org.etpipeline.core.Refusal
import org.etpipeline.core.Role
import org.etpipeline.engine.AskContract
import org.etpipeline.engine.RefusedException
import org.etpipeline.engine.RemoteModel
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowLooper

/** The asking end, with real parcels; the app that is asked is made up. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = Application::class)
class RemoteModelTest {
    private val app: Application = ApplicationProvider.getApplicationContext()
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val end = AnswerEnd(AnswerStats(9, 3, 12.5, 100.0, "MODEL"), 1)

    /** Writes down what it is asked; the test answers. */
    private class Asked : Binder() {
        val calls = mutableListOf<Int>()
        var json = ""
        var version = 0
        @Volatile var listener: OtherProcess? = null
        private var heard: IBinder? = null
        @Volatile var isCancelled = false

        override fun onTransact(code: Int, data: Parcel, reply: Parcel?, flags: Int): Boolean {
            data.enforceInterface(AskContract.SERVICE)
            calls += code
            version = data.readInt()
            val from = checkNotNull(data.readStrongBinder())
            if (code == AskContract.CANCEL) {
                check(from === heard) { "another question" }
                isCancelled = true
            } else {
                json = data.readString().orEmpty()
                heard = from
                listener = OtherProcess(from)
            }
            return true
        }

        fun say(code: Int, text: String) = checkNotNull(listener).call(code, AskContract.LISTENER) { writeString(text) }
    }

    private val asked = Asked()
    private val process = OtherProcess(asked)

    @Before
    fun install() {
        shadowOf(app).setComponentNameAndServiceForBindService(ComponentName(PACKAGE, "Service"), process)
    }

    private fun connect(): RemoteModel = RemoteModel(app, PACKAGE).also { ShadowLooper.idleMainLooper() }

    private fun collect(flow: Flow<String>): Deferred<List<String>> = scope.async { flow.toList() }

    private fun waitFor(what: String, condition: () -> Boolean) {
        val end = System.nanoTime() + 30_000_000_000
        while (!condition()) {
            assertTrue("it takes too long: $what", System.nanoTime() < end)
            Thread.sleep(2)
        }
    }

    /** The system says that what was bound is not there any more. */
    private fun bindingDied() {
        val name = ComponentName(PACKAGE, "Service")
        shadowOf(app).boundServiceConnections.single().onBindingDied(name)
    }

    private fun refusal(of: Deferred<*>): Refusal =
        assertThrows(RefusedException::class.java) { runBlocking { withTimeout(30_000) { of.await() } } }.refusal

    @Test
    fun `a question is sent, and the answer comes piece by piece`() {
        val answer = collect(connect().answer("Italy?", ChatSettings(temperature = 0.5f)))
        waitFor("the question") { asked.listener != null }
        assertEquals(
            AskRequest(listOf(Message(Role.USER, "Italy?")), ChatSettings(temperature = 0.5f)),
            AskRequest.read(asked.json),
        )
        assertEquals(AskContract.VERSION, asked.version)
        asked.say(AskContract.TEXT, "Ro")
        asked.say(AskContract.TEXT, "me \uD83D\uDE00")
        asked.say(AskContract.DONE, end.toJson())
        assertEquals(listOf("Ro", "me \uD83D\uDE00"), runBlocking { answer.await() })
        waitFor("its death is of no interest any more") { !process.isWatched }
    }

    @Test
    fun `a conversation has its answer with what it took`() {
        val talk = listOf(Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello"), Message(Role.USER, "Italy?"))
        val model = connect()
        val pieces = mutableListOf<String>()
        val answer = scope.async { model.ask(talk) { pieces += it } }
        waitFor("the question") { asked.listener != null }
        assertEquals(talk, AskRequest.read(asked.json).messages)
        asked.say(AskContract.TEXT, "Ro")
        asked.say(AskContract.TEXT, "me")
        asked.say(AskContract.DONE, end.toJson())
        val said = runBlocking { answer.await() }
        assertEquals("Rome" to end, said.text to said.end)
        assertEquals(listOf("Ro", "me"), pieces)
    }

    @Test
    fun `who has enough stops the model`() {
        val model = connect()
        val first = scope.async { model.answer("Italy?").first() }
        waitFor("the question") { asked.listener != null }
        asked.say(AskContract.TEXT, "Ro")
        assertEquals("Ro", runBlocking { first.await() })
        waitFor("it is told to stop") { asked.isCancelled }
        asked.say(AskContract.TEXT, "me") // what is under way disturbs nobody
        checkNotNull(asked.listener).settle()
    }

    @Test
    fun `a refusal arrives with its reason and its sentence`() {
        val answer = collect(connect().answer("Italy?"))
        waitFor("the question") { asked.listener != null }
        val refusal = Refusal(Refusal.Reason.BUSY, "4 Fragen warten schon.")
        asked.say(AskContract.REFUSED, refusal.toJson())
        assertEquals(refusal, refusal(answer))
    }

    @Test
    fun `when the other app dies, the answer ends with that`() {
        val model = connect()
        val answer = collect(model.answer("Italy?"))
        waitFor("the question") { asked.listener != null }
        asked.say(AskContract.TEXT, "Ro")
        process.die()
        assertEquals(Refusal.Reason.FAILED, refusal(answer).reason)
        assertEquals(Refusal.Reason.FAILED, refusal(collect(model.answer("Spain?"))).reason) // it is not there yet
    }

    @Test
    fun `when the other app takes nothing, the question ends with that`() {
        process.isFull = true
        assertEquals(Refusal.Reason.FAILED, refusal(collect(connect().answer("Italy?"))).reason)
        assertTrue(!process.isWatched)
    }

    @Test
    fun `a question waits until the other app is there`() {
        val model = RemoteModel(app, PACKAGE)
        val answer = collect(model.answer("Italy?"))
        Thread.sleep(50)
        assertEquals(emptyList<Int>(), asked.calls)
        ShadowLooper.idleMainLooper()
        waitFor("the question") { asked.listener != null }
        asked.say(AskContract.DONE, end.toJson())
        assertEquals(emptyList<String>(), runBlocking { answer.await() })
    }

    @Test
    fun `an app that is not there is said to be so, and nothing stays bound`() {
        shadowOf(app).declareActionUnbindable(AskContract.ACTION)
        val error = assertThrows(RefusedException::class.java) { RemoteModel(app, PACKAGE) }
        assertEquals(Refusal.Reason.NOT_THERE, error.refusal.reason)
        assertTrue(error.message, PACKAGE in error.message.orEmpty())
        assertEquals(1, shadowOf(app).unboundServiceConnections.size)
    }

    @Test
    fun `without the permission it is said that it lacks`() {
        shadowOf(app).setThrowInBindService(SecurityException("Not allowed to bind to service"))
        val error = assertThrows(RefusedException::class.java) { RemoteModel(app, PACKAGE) }
        assertEquals(Refusal.Reason.NOT_ALLOWED, error.refusal.reason)
        assertEquals(1, shadowOf(app).unboundServiceConnections.size)
    }

    @Test
    fun `an app that was updated is bound again`() {
        val model = connect()
        process.die()
        val updated = Asked()
        val name = ComponentName(PACKAGE, "Service")
        shadowOf(app).setComponentNameAndServiceForBindService(name, OtherProcess(updated))
        bindingDied()
        ShadowLooper.idleMainLooper()
        val answer = collect(model.answer("Italy?"))
        waitFor("the question") { updated.listener != null }
        updated.say(AskContract.DONE, end.toJson())
        assertEquals(emptyList<String>(), runBlocking { answer.await() })
    }

    @Test
    fun `an app that has gone is said to be so, and nothing stays bound`() {
        val model = connect()
        shadowOf(app).declareActionUnbindable(AskContract.ACTION)
        bindingDied()
        repeat(2) {
            assertEquals(Refusal.Reason.NOT_THERE, refusal(collect(model.answer("Italy?"))).reason)
            assertEquals(emptyList<Any>(), shadowOf(app).boundServiceConnections)
        }
        val unbound = shadowOf(app).unboundServiceConnections.size
        model.close()
        assertEquals(unbound, shadowOf(app).unboundServiceConnections.size)
        assertEquals(Refusal.Reason.FAILED, refusal(collect(model.answer("Italy?"))).reason)
    }

    @Test
    fun `an app that has a service but nothing to ask is said to have none`() {
        val model = connect()
        shadowOf(app).boundServiceConnections.single().onNullBinding(ComponentName(PACKAGE, "Service"))
        assertEquals(emptyList<Any>(), shadowOf(app).boundServiceConnections)
        shadowOf(app).declareActionUnbindable(AskContract.ACTION)
        assertEquals(Refusal.Reason.NOT_THERE, refusal(collect(model.answer("Italy?"))).reason)
        val unbound = shadowOf(app).unboundServiceConnections.size
        model.close()
        assertEquals(unbound, shadowOf(app).unboundServiceConnections.size)
    }

    @Test
    fun `an app that lets nobody in for a while is asked again with the next question`() {
        val model = connect()
        shadowOf(app).setThrowInBindService(SecurityException("Not allowed to bind to service"))
        bindingDied()
        assertEquals(Refusal.Reason.NOT_ALLOWED, refusal(collect(model.answer("Italy?"))).reason)
        shadowOf(app).setThrowInBindService(null)
        val answer = collect(model.answer("Italy?"))
        waitFor("the question") {
            ShadowLooper.idleMainLooper()
            asked.listener != null
        }
        asked.say(AskContract.DONE, end.toJson())
        assertEquals(emptyList<String>(), runBlocking { answer.await() })
    }

    @Test
    fun `one that was closed is not bound again`() {
        val model = connect()
        val connection = shadowOf(app).boundServiceConnections.single()
        model.close()
        connection.onBindingDied(ComponentName(PACKAGE, "Service"))
        assertEquals(emptyList<Any>(), shadowOf(app).boundServiceConnections)
        assertEquals(1, shadowOf(app).unboundServiceConnections.size)
    }

    @Test
    fun `a conversation that is too long is not sent`() {
        val refusal = refusal(collect(connect().answer("a".repeat(AskRequest.LONGEST))))
        assertEquals(Refusal.Reason.TOO_LONG, refusal.reason)
        assertTrue(refusal.sentence, "${AskRequest.LONGEST}" in refusal.sentence)
        assertEquals(emptyList<Int>(), asked.calls)
    }

    @Test
    fun `the longest conversation is far from what a transaction holds`() {
        val room = AskRequest.LONGEST - AskRequest(listOf(Message(Role.USER, ""))).toJson().length
        collect(connect().answer("\u4e2d".repeat(room)))
        waitFor("the question") { asked.listener != null }
        assertEquals(AskRequest.LONGEST, asked.json.length)
        assertTrue("${process.sent}", process.sent in 2 * AskRequest.LONGEST..AskContract.LARGEST_CALL)
    }

    @Test
    fun `closing ends what is being answered, and unbinds once`() {
        val model = connect()
        val answer = collect(model.answer("Italy?"))
        waitFor("the question") { asked.listener != null }
        model.close()
        model.close()
        assertEquals(Refusal.Reason.FAILED, refusal(answer).reason)
        waitFor("it is told to stop") { asked.isCancelled }
        assertEquals(1, shadowOf(app).unboundServiceConnections.size)
        assertEquals(Refusal.Reason.FAILED, refusal(collect(model.answer("Spain?"))).reason)
    }

    @Test
    fun `an answer that cannot be read is no crash`() {
        val answer = collect(connect().answer("Italy?"))
        waitFor("the question") { asked.listener != null }
        asked.say(AskContract.DONE, "well")
        assertEquals(Refusal.Reason.OTHER_VERSION, refusal(answer).reason)
    }

    private companion object {
        const val PACKAGE = "org.example.model"
    }
}
