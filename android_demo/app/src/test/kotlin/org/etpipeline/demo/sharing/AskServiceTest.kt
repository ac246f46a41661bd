package org.etpipeline.demo.sharing

import android.content.Intent
import androidx.lifecycle.Lifecycle
import androidx.test.core.app.ActivityScenario
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import org.etpipeline.core.AskRequest
import org.etpipeline.core.ChatFormat
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.Message
import org.etpipeline.core.Problem
import org.etpipeline.core.Refusal
import org.etpipeline.core.Role
import org.etpipeline.core.StoredBundle
import org.etpipeline.core.readManifest
import org.etpipeline.demo.MainActivity
import org.etpipeline.demo.R
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.install
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.models.adapterBundle
import org.etpipeline.demo.startEmpty
import org.etpipeline.demo.testApp
import org.etpipeline.engine.AskContract
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ServiceController
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowBinder
import org.robolectric.shadows.ShadowLooper

private const val ONE_WAY_PID = 0

/** Lets the app with this uid ask, as the user does it in the dialog. */
internal fun TestApp.grant(uid: Int) {
    shadowOf(this).grantPermissions(ONE_WAY_PID, uid, AskContract.permissionOf(packageName))
    ShadowBinder.setCallingUid(uid)
}

/** The app's service, asked from another process: what the switch, the permission and the model have to do with it. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
class AskServiceTest {
    private val app = testApp
    private val scope = CoroutineScope(Dispatchers.Default)
    private var controller: ServiceController<AskService>? = null

    /** Bound by another app. */
    private val binder by lazy { bind() }

    @Before
    fun permit() {
        app.startEmpty()
        app.grant(OTHER_APP)
    }

    @After fun unbind() {
        controller?.destroy()
    }

    private fun bind(): OtherProcess {
        val made = Robolectric.buildService(AskService::class.java).create().also { controller = it }
        return OtherProcess(made.get().onBind(Intent(AskContract.ACTION)))
    }

    private fun letAsk() {
        app.install()
        app.services.otherApps.letAsk(true)
    }

    private fun ask(vararg texts: String, settings: ChatSettings = ChatSettings()): Asker {
        val messages = texts.mapIndexed { i, text -> Message(if (i % 2 == 0) Role.USER else Role.ASSISTANT, text) }
        return Asker().apply { call(this@AskServiceTest.binder, json = AskRequest(messages, settings).toJson()) }
    }

    private fun waitFor(what: String, condition: () -> Boolean) {
        val end = System.nanoTime() + 30_000_000_000
        while (!condition()) {
            assertTrue("it takes too long: $what", System.nanoTime() < end)
            ShadowLooper.idleMainLooper()
            Thread.sleep(2)
        }
    }

    private fun Asker.told(): Asker {
        waitFor("the end of an answer") { isTold }
        binder.settle()
        return this
    }

    @Test
    fun `nobody is answered before the user says so, and is told where`() {
        app.install()
        val refusal = checkNotNull(ask("Hi").told().refusal)
        assertEquals(Refusal.Reason.OFF, refusal.reason)
        for (mentioned in listOf(R.string.sharing_switch, R.string.app_name)) {
            assertTrue(refusal.sentence, app.getString(mentioned) in refusal.sentence)
        }
        assertEquals(0, app.engine.loads)
    }

    @Test
    fun `the selected model answers, with what was said before`() {
        letAsk()
        app.engine.answers += "Madrid it is."
        val asker = ask("Capital of Italy?", "Rome.", "And of Spain?").told()
        assertEquals("Madrid it is.", asker.text)
        assertEquals(3, asker.end?.stats?.tokens)
        val prompt = app.engine.prompts.single()
        for (text in listOf("Capital of Italy?", "Rome.", "And of Spain?")) assertTrue(prompt, text in prompt)
    }

    @Test
    fun `settings of the question count instead of the model's own`() {
        letAsk()
        ask("Hi").told()
        ask("Hi", settings = ChatSettings(temperature = 1.5f, maxNewTokens = 77)).told()
        val set = ChatSettings(seed = 42, frequencyPenalty = 0.5f, presencePenalty = 0.25f)
        ask("Hi", settings = set).told()
        val (own, hot, seeded) = app.engine.requests
        assertTrue("$own", own.sampling.temperature < 1.5f)
        assertEquals(1.5f, hot.sampling.temperature)
        assertEquals(77, hot.maxNewTokens)
        assertEquals(own.copy(seed = 42, frequencyPenalty = 0.5f, presencePenalty = 0.25f), seeded)
    }

    private fun select(bundle: TestBundle): StoredBundle =
        app.services.store.import(bundle.source()).also { app.services.models.select(it.id) }

    @Test
    fun `another app says whether the model thinks, and its thought comes within the text`() {
        letAsk()
        val usual = readManifest(TestBundle.whole.manifest).chat.segments
        val quiet = usual.copy(userToAssistant = usual.userToAssistant + "<think></think>")
        val other = Json.encodeToString(ChatFormat.serializer(), quiet)
        select(TestBundle.whole.edited("chat.thinking", "{\"default\": true, \"other\": $other}"))
        app.engine.answers += "<think>Well.</think>Rome."
        assertEquals("<think>Well.</think>Rome.", ask("Italy?").told().text)
        ask("Italy?", settings = ChatSettings(thinks = false)).told()
        assertEquals(listOf(false, true), app.engine.prompts.map { it.endsWith("<think></think>") })
    }

    @Test
    fun `the adapter that another app names answers, and one that is not there is refused`() {
        letAsk()
        val bundle = select(adapterBundle)
        ask("Hi", settings = ChatSettings(adapter = "b")).told()
        ask("Hi").told()
        assertEquals(listOf(bundle.folder.resolve("b.ptd"), null), app.engine.adapters)
        val refusal = ask("Hi", settings = ChatSettings(adapter = "c")).told().refusal
        val sentence = app.getString(R.string.problem_no_adapter, "c", "adaptable")
        assertEquals(Refusal(Refusal.Reason.FAILED, sentence), refusal)
        assertEquals(2, app.engine.prompts.size)
    }

    @Test
    fun `a model that was selected again answers`() {
        letAsk()
        val first = checkNotNull(app.services.models.bundle)
        ask("Hi").told()
        select(adapterBundle)
        app.services.models.select(first.id)
        assertEquals("ok", ask("Hi").told().text)
        assertEquals(1, app.engine.loads)
    }

    @Test
    fun `what it took tells nothing of what others have asked`() {
        letAsk()
        fun asks(uid: Int): Int {
            app.grant(uid)
            ask("Hi").told()
            return app.engine.resets
        }
        runBlocking { app.services.models.use {} } // this app's own screens have used it
        assertEquals(1, asks(OTHER_APP))
        assertEquals(1, asks(OTHER_APP)) // it goes on with its own
        assertEquals(2, asks(OTHER_APP + 1))
        assertEquals(3, asks(OTHER_APP))
        runBlocking { app.services.models.use { it.generate("mine", GenerationRequest(8)) { true } } }
        assertEquals(4, asks(OTHER_APP))
    }

    @Test
    fun `whoever switches it off is obeyed at once`() {
        letAsk()
        app.engine.isPaced = true
        app.engine.answers += "One two three four"
        val asker = ask("Count!")
        waitFor("the first word") { asker.text == "One " }
        app.services.otherApps.letAsk(false)
        assertEquals(Refusal.Reason.OFF, asker.told().refusal?.reason)
        runBlocking { app.services.models.use {} } // it is free again
        assertEquals("One ", asker.text)
        assertEquals(Refusal.Reason.OFF, ask("Hi").told().refusal?.reason)
    }

    @Test
    fun `what the user wants is remembered`() {
        assertFalse(app.services.otherApps.mayAsk.value)
        app.services.otherApps.letAsk(true)
        assertTrue(OtherApps(app.services.preferences, app.services.models).mayAsk.value)
    }

    @Test
    fun `without a model the refusal says so`() {
        app.services.otherApps.letAsk(true)
        assertEquals(Refusal.Reason.NO_MODEL, ask("Hi").told().refusal?.reason)
    }

    @Test
    fun `what is wrong with the model is said in a sentence`() {
        letAsk()
        app.engine.problem = Problem.PromptTooLong
        val refusal = checkNotNull(ask("Hi").told().refusal)
        assertEquals(Refusal(Refusal.Reason.TOO_LONG, app.getString(R.string.problem_prompt_too_long)), refusal)
        app.engine.problem = null
        app.phone.totalRam = 1
        app.services.models.refresh()
        runBlocking { app.services.models.unload() }
        val memory = checkNotNull(ask("Hi").told().refusal)
        assertEquals(Refusal.Reason.FAILED, memory.reason)
        assertTrue(memory.sentence, memory.sentence.startsWith("This model needs"))
    }

    @Test
    fun `an app that was not granted the permission is refused`() {
        letAsk()
        ShadowBinder.setCallingUid(OTHER_APP + 1)
        val refusal = checkNotNull(ask("Hi").told().refusal)
        assertEquals(Refusal.Reason.NOT_ALLOWED, refusal.reason)
        assertEquals(0, app.engine.loads)
    }

    @Test
    fun `a question waits for what this app's own screens ask`() {
        letAsk()
        val gate = CompletableDeferred<Unit>()
        val holding = CompletableDeferred<Unit>()
        scope.launch {
            app.services.models.use {
                holding.complete(Unit)
                gate.await()
            }
        }
        runBlocking { holding.await() }
        val asker = ask("Hi")
        binder.settle()
        Thread.sleep(50)
        assertEquals(emptyList<String>(), app.engine.prompts)
        gate.complete(Unit)
        assertEquals("ok", asker.told().text)
    }

    @Test
    fun `the model stays while an app is bound, and goes after the last one`() {
        letAsk()
        ask("Hi").told()
        Thread.sleep(600)
        assertFalse(app.engine.isClosed)
        controller?.destroy()
        waitFor("the model is freed") { app.engine.isClosed }
        assertTrue(app.services.models.state.value is ModelHolder.State.Selected)
        controller = null
    }

    @Test
    fun `an app that comes back at once finds the model loaded`() {
        letAsk()
        ask("Hi").told()
        controller?.destroy()
        bind()
        Thread.sleep(600)
        assertFalse(app.engine.isClosed)
    }

    @Test
    fun `the model stays for this app's own screen`() {
        letAsk()
        app.services.otherApps.isShown = true
        ask("Hi").told()
        controller?.destroy()
        controller = null
        Thread.sleep(600)
        assertFalse(app.engine.isClosed)
    }

    @Test
    fun `whoever switches it off has the model freed, though an app stays bound`() {
        letAsk()
        val otherApps = app.services.otherApps
        otherApps.isShown = true
        ask("Hi").told()
        otherApps.isShown = false
        Thread.sleep(600)
        assertFalse(app.engine.isClosed) // others may ask it
        otherApps.isShown = true
        otherApps.letAsk(false)
        Thread.sleep(600)
        assertFalse(app.engine.isClosed) // it is used here
        otherApps.isShown = false
        waitFor("the model is freed") { app.engine.isClosed }
    }

    @Test
    fun `the app knows whether it is shown`() {
        val otherApps = app.services.otherApps
        assertFalse(otherApps.isShown)
        ActivityScenario.launch(MainActivity::class.java).use { scenario ->
            assertTrue(otherApps.isShown)
            scenario.recreate()
            assertTrue(otherApps.isShown)
            scenario.moveToState(Lifecycle.State.CREATED)
            assertFalse(otherApps.isShown)
        }
    }

    private companion object {
        const val OTHER_APP = 10_123
    }
}
