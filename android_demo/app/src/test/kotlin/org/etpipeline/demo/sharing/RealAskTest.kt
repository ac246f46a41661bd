package org.etpipeline.demo.sharing

import android.content.ComponentName
import android.content.Intent
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.Generation
import org.etpipeline.core.Message
import org.etpipeline.core.Refusal
import org.etpipeline.core.Role
import org.etpipeline.demo.RealEngineApp
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.testApp
import org.etpipeline.engine.AskContract
import org.etpipeline.engine.RefusedException
import org.etpipeline.engine.RemoteModel
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowLooper

/** Both ends, and the built-in model on Android's own library; the app has only just been started by who asks. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = RealEngineApp::class)
class RealAskTest {
    private val app = testApp
    private val service = Robolectric.buildService(AskService::class.java).create()

    private fun connect(): RemoteModel {
        val process = OtherProcess(service.get().onBind(Intent(AskContract.ACTION)))
        val name = ComponentName(app, AskService::class.java)
        shadowOf(app).setComponentNameAndServiceForBindService(name, process)
        return RemoteModel(app, app.packageName).also { ShadowLooper.idleMainLooper() }
    }

    @Test
    fun `another app asks the model, and goes on with the conversation`() = runBlocking {
        app.grant(10_123)
        app.services.otherApps.letAsk(true)
        val model = connect()
        val question = "What is the capital of Italy?"
        val pieces = model.answer(question).toList()
        assertEquals("The capital of Italy is Rome.", pieces.joinToString(""))
        assertTrue("$pieces", pieces.size > 3)

        val talk = listOf(
            Message(Role.USER, question),
            Message(Role.ASSISTANT, pieces.joinToString("")),
            Message(Role.USER, "And of Spain?"),
        )
        val answer = model.ask(talk)
        assertEquals("The capital of Spain is Madrid.", answer.text)
        assertEquals(Generation.End.MODEL.name, answer.end.stats.end)
        assertTrue("${answer.end}", answer.end.stats.tokens > 3 && answer.end.stats.ttftMs > 0)

        assertEquals(pieces.take(2), model.answer(question).take(2).toList())
        assertEquals(pieces, model.answer(question).toList()) // after one that was left

        model.close()
        service.destroy()
        val end = System.nanoTime() + 30_000_000_000
        while (app.services.models.state.value is ModelHolder.State.Ready && System.nanoTime() < end) Thread.sleep(5)
        assertTrue(app.services.models.state.value is ModelHolder.State.Selected)
    }

    @Test
    fun `an app that was granted nothing hears so`() {
        app.services.otherApps.letAsk(true)
        val error = assertThrows(RefusedException::class.java) {
            runBlocking { connect().answer("What is the capital of Italy?").toList() }
        }
        assertEquals(Refusal.Reason.NOT_ALLOWED, error.refusal.reason)
        service.destroy()
    }
}
