package org.etpipeline.demo.engine

import android.content.ComponentCallbacks2.TRIM_MEMORY_BACKGROUND
import android.content.ComponentCallbacks2.TRIM_MEMORY_RUNNING_MODERATE
import android.content.ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN
import android.content.Context
import androidx.test.core.app.ApplicationProvider
import java.io.File
import java.util.Collections
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.DelicateCoroutinesApi
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.GlobalScope
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleStore
import org.etpipeline.core.EngineException
import org.etpipeline.core.GenerationRequest
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Problem
import org.etpipeline.core.StoredBundle
import org.etpipeline.demo.FakeEngine
import org.etpipeline.demo.Services
import org.etpipeline.demo.TestApp
import org.etpipeline.demo.models.ModelItem
import org.etpipeline.demo.models.ModelsViewModel
import org.etpipeline.demo.models.PROGRAM
import org.etpipeline.demo.models.TestBundle
import org.etpipeline.demo.models.adapterBundle
import org.etpipeline.demo.startEmpty
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowLooper

@OptIn(DelicateCoroutinesApi::class)
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
class ModelHolderTest {
    @get:Rule val disk = TemporaryFolder()

    private val app: TestApp = ApplicationProvider.getApplicationContext()
    private val store by lazy { BundleStore(disk.newFolder("bundles")) }
    private val preferences = app.getSharedPreferences("of this test", Context.MODE_PRIVATE)
    private val holder by lazy { newHolder() }
    private val events: MutableList<String> = Collections.synchronizedList(mutableListOf())
    private val open = AtomicInteger()
    private var problem: Problem? = null // of loading
    private var gate: CompletableDeferred<Unit>? = null // loading waits for it

    private lateinit var first: StoredBundle
    private lateinit var second: StoredBundle

    @Before
    fun importTwo() {
        app.startEmpty()
        first = import("first")
        second = import("second")
        holder.refresh()
    }

    private fun import(name: String) = store.import(TestBundle.whole.edited("what.name", "\"$name\"").source())

    @Test
    fun `where there is no room for adapters, it is said, and the app goes on`() {
        val chosen = store.import(adapterBundle.source())
        val noFolder = File(disk.newFile(), "slots")
        val holder = ModelHolder(store, app.phone, preferences, noFolder)
        holder.select(chosen.id)
        val thrown = assertThrows(EngineException::class.java) { runBlocking { holder.use {} } }
        assertTrue("${thrown.problem}", thrown.problem is Problem.Storage)
        assertEquals(ModelHolder.State.Failed(chosen, thrown.problem), holder.state.value)
    }

    private fun newHolder() =
        ModelHolder(store, app.phone, preferences, File(app.filesDir, "slots")) { bundle, _ -> Noted(bundle) }

    private fun use(block: suspend (LlmEngine) -> Unit = {}) = runBlocking { holder.use(block) }

    /** Uses the selected model on another thread. */
    private fun useMeanwhile(block: suspend (LlmEngine) -> Unit = {}): Deferred<Unit> =
        GlobalScope.async(Dispatchers.Default, CoroutineStart.UNDISPATCHED) { holder.use(block) }

    /** Here is no screen: a rule for one would wait for it. */
    private fun waitFor(condition: () -> Boolean) {
        val end = System.nanoTime() + 10_000_000_000
        while (!condition()) {
            assertTrue("it takes too long", System.nanoTime() < end)
            ShadowLooper.idleMainLooper()
            Thread.sleep(5)
        }
    }

    /** Says what happens to it, in order with all others. */
    private inner class Noted(bundle: StoredBundle, private val engine: FakeEngine = FakeEngine()) : LlmEngine by engine {
        private val name = bundle.manifest!!.what.name

        override suspend fun load(): Long {
            events += "load $name"
            open.incrementAndGet()
            gate?.await()
            problem?.let { throw EngineException(it) }
            return engine.load()
        }

        override fun close() {
            events += "close $name"
            open.decrementAndGet()
            engine.close()
        }
    }

    @Test
    fun `nothing is loaded before its first use, and then once`() {
        assertEquals("first", holder.bundle?.manifest?.what?.name)
        assertEquals(ModelHolder.State.Selected(first), holder.state.value)
        assertEquals(emptyList<String>(), events)
        use()
        use()
        assertEquals(listOf("load first"), events)
        val program = first.manifest!!.programs.single()
        assertEquals(ModelHolder.State.Ready(first, program, loadMs = 7), holder.state.value)
    }

    @Test
    fun `another model is loaded when the earlier one is closed`() {
        use()
        holder.select(second.id)
        assertEquals(listOf("load first"), events) // it may never be used
        use()
        assertEquals(listOf("load first", "close first", "load second"), events)
    }

    @Test
    fun `a model that is selected again before another one was used is ready`() {
        use()
        val ready = holder.state.value as ModelHolder.State.Ready
        holder.select(second.id)
        holder.select(first.id)
        use { assertEquals(ready, holder.state.value) }
        assertEquals(listOf("load first"), events)
    }

    @Test
    fun `one that is selected again while it is loaded is ready`() {
        gate = CompletableDeferred()
        val answer = useMeanwhile { assertEquals(first.id, (holder.state.value as ModelHolder.State.Ready).bundle.id) }
        waitFor { "load first" in events }
        holder.select(second.id)
        holder.select(first.id)
        gate!!.complete(Unit)
        runBlocking { answer.await() }
        assertEquals(listOf("load first"), events)
    }

    @Test
    fun `another model waits for the end of the answer`() {
        val answered = CompletableDeferred<Unit>()
        val answer = useMeanwhile { answered.await() }
        waitFor { holder.state.value is ModelHolder.State.Ready }
        holder.select(second.id)
        val next = useMeanwhile()
        Thread.sleep(100)
        assertEquals(listOf("load first"), events)
        answered.complete(Unit)
        runBlocking { awaitAll(answer, next) }
        assertEquals(listOf("load first", "close first", "load second"), events)
    }

    @Test
    fun `however they are used, there is one at a time`() {
        val most = AtomicInteger()
        val uses = List(40) { number ->
            GlobalScope.async(Dispatchers.Default) {
                holder.select(if (number % 3 == 0) first.id else second.id)
                holder.use { engine ->
                    most.accumulateAndGet(open.get(), ::maxOf)
                    engine.generate("hello", GenerationRequest(8)) { true }
                }
                if (number % 7 == 0) holder.unload()
                if (number % 5 == 0) holder.useFresh { _, _, newEngine -> newEngine().use { it.load() } }
            }
        }
        runBlocking { uses.awaitAll() }
        assertEquals(1, most.get())
        var loaded: String? = null
        for ((what, name) in events.map { it.split(' ') }) {
            assertEquals("$events", if (what == "load") null else name, loaded)
            loaded = name.takeIf { what == "load" }
        }
    }

    @Test
    fun `a model that is selected while another one is loaded stays selected, and answers`() {
        gate = CompletableDeferred()
        var answering: String? = null
        val answer = useMeanwhile { answering = holder.bundle?.manifest?.what?.name }
        waitFor { "load first" in events }
        holder.select(second.id)
        gate!!.complete(Unit)
        runBlocking { answer.await() }
        assertEquals(listOf("load first", "close first", "load second"), events)
        assertEquals("second", answering)
        assertEquals(second.id, (holder.state.value as ModelHolder.State.Ready).bundle.id)
    }

    @Test
    fun `too little memory is refused with its numbers, and nothing is loaded`() {
        app.phone.totalRam = 500_000_000
        app.phone.freeRam = 200_000_000
        val needed = first.manifest!!.memory.minDeviceRamBytes
        val expected = Problem.NotEnoughMemory(needed, total = 500_000_000, free = 200_000_000)
        assertEquals(expected, assertThrows(BundleException::class.java) { use() }.problem)
        assertEquals(ModelHolder.State.Failed(first, expected), holder.state.value)
        val benchmark = assertThrows(BundleException::class.java) {
            runBlocking { holder.useFresh { _, _, newEngine -> newEngine().use { it.load() } } }
        }
        assertEquals(expected, benchmark.problem)
        assertEquals(emptyList<String>(), events)
        app.phone.totalRam = 8_000_000_000
        use()
        assertEquals(listOf("load first"), events)
    }

    @Test
    fun `a model that the runtime refuses is closed, and tried again at the next use`() {
        problem = Problem.BadProgram("no such operator")
        assertEquals(problem, assertThrows(EngineException::class.java) { use() }.problem)
        assertEquals(ModelHolder.State.Failed(first, problem!!), holder.state.value)
        assertEquals(listOf("load first", "close first"), events)
        problem = null
        use()
        assertTrue(holder.state.value is ModelHolder.State.Ready)
    }

    @Test
    fun `without memory for it a hidden app frees the model, and the next use loads it again`() {
        use()
        holder.onTrimMemory(TRIM_MEMORY_BACKGROUND)
        waitFor { events.size == 2 }
        waitFor { holder.state.value == ModelHolder.State.Selected(first) }
        use()
        assertEquals(listOf("load first", "close first", "load first"), events)
    }

    @Test
    fun `an answer is not disturbed by it, and the model is freed behind it`() {
        val answered = CompletableDeferred<Unit>()
        val answer = useMeanwhile { answered.await() }
        waitFor { holder.state.value is ModelHolder.State.Ready }
        holder.onTrimMemory(TRIM_MEMORY_BACKGROUND)
        Thread.sleep(100)
        assertEquals(listOf("load first"), events)
        answered.complete(Unit)
        runBlocking { answer.await() }
        assertEquals(listOf("load first", "close first"), events)
        use()
        assertEquals(listOf("load first", "close first", "load first"), events)
    }

    @Test
    @Suppress("DEPRECATION") // up to Android 13 they are still sent
    fun `a hint that is none does not free it`() {
        use()
        holder.onTrimMemory(TRIM_MEMORY_RUNNING_MODERATE)
        holder.onTrimMemory(TRIM_MEMORY_UI_HIDDEN)
        Thread.sleep(100)
        assertEquals(listOf("load first"), events)
    }

    @Test
    fun `deleting the loaded model frees it, and another one is selected`() {
        use()
        val services = app.services.run {
            Services(
                this@ModelHolderTest.store, conversations, notes, phone, preferences, holder, adapters, startup,
                embedders, search,
            )
        }
        ModelsViewModel(services).delete(ModelItem(first))
        waitFor { holder.bundle?.id == second.id }
        assertEquals(listOf("load first", "close first"), events)
        assertEquals(listOf(second.id), store.list().map { it.id })
        use()
        assertEquals("load second", events.last())
    }

    @Test
    fun `a benchmark has engines of its own, and the loaded model is freed before`() {
        use()
        runBlocking {
            holder.useFresh { bundle, _, newEngine ->
                assertEquals(first.id, bundle.id)
                newEngine().use { it.load() }
            }
        }
        assertEquals(listOf("load first", "close first", "load first", "close first"), events)
    }

    @Test
    fun `a new process has the same selection`() {
        holder.select(second.id)
        assertEquals(second.id, newHolder().apply { refresh() }.bundle?.id)
        store.delete(second.id)
        assertEquals(first.id, newHolder().apply { refresh() }.bundle?.id)
        store.delete(first.id)
        assertNull(newHolder().apply { refresh() }.bundle)
    }

    @Test
    fun `a model with a missing file is not taken by itself`() {
        first.folder.resolve(PROGRAM).delete()
        assertEquals(second.id, newHolder().apply { refresh() }.bundle?.id)
    }

    @Test
    fun `a selected model whose file has gone says so`() {
        first.folder.resolve(PROGRAM).delete()
        holder.select(second.id)
        holder.select(first.id)
        val error = assertThrows(BundleException::class.java) { use() }
        assertEquals(Problem.MissingFile(PROGRAM), error.problem)
        assertEquals(emptyList<String>(), events)
    }

    @Test
    fun `without a model there is nothing to use`() {
        store.list().forEach { store.delete(it.id) }
        holder.refresh()
        assertEquals(ModelHolder.State.Empty, holder.state.value)
        assertEquals(Problem.NoModel, assertThrows(BundleException::class.java) { use() }.problem)
    }
}
