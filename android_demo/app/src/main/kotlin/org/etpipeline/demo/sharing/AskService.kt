package org.etpipeline.demo.sharing

import android.app.Service
import android.content.Intent
import android.content.pm.PackageManager
import android.os.IBinder
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.etpipeline.core.Answer
import org.etpipeline.core.AskRequest
import org.etpipeline.core.ChatSession
import org.etpipeline.core.EngineException
import org.etpipeline.core.LlmEngine
import org.etpipeline.core.Message
import org.etpipeline.core.Problem
import org.etpipeline.core.Role
import org.etpipeline.core.Task
import org.etpipeline.core.fill
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.Services
import org.etpipeline.demo.chat.OwnSettings
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.text
import org.etpipeline.engine.AskBinder
import org.etpipeline.engine.AskContract

/** Oneway calls do not tell it; the permission is the app's anyway, not a process's. */
private const val NO_PID = 0

/**
 * Lets other apps ask the selected model, one question at a time and in turn with this app's own screens.
 *
 * The user grants the other app the permission, and switches it on here (see [OtherApps]); and a model has to be
 * selected. Nothing of what is asked is kept.
 *
 * The settings of a question count as those of a chat here do. So an answer begins with what the model thought, between
 * `<think>` and `</think>`, if it thinks; `thinks = false` turns that off where its template has a switch.
 */
class AskService : Service() {
    private val services: Services by lazy { (application as DemoApp).services }
    private val scope = CoroutineScope(Dispatchers.Default)
    private val binder by lazy { AskBinder(::isPermitted, { it.text(resources) }, ::answer) }

    // Who has asked last, which engine, and its uses then; only touched in turn.
    private var asked: Triple<Int, LlmEngine, Long>? = null

    override fun onCreate() {
        super.onCreate()
        services.otherApps.onBound()
        scope.launch {
            services.otherApps.mayAsk.collect { may -> if (!may) binder.refuseAll(Problem.AskingIsOff) }
        }
    }

    override fun onBind(intent: Intent): IBinder = binder

    override fun onDestroy() {
        scope.cancel()
        binder.close()
        services.otherApps.onUnbound()
        super.onDestroy()
    }

    private fun isPermitted(uid: Int): Boolean =
        checkPermission(AskContract.permissionOf(packageName), NO_PID, uid) == PackageManager.PERMISSION_GRANTED

    private suspend fun answer(uid: Int, request: AskRequest, onText: (String) -> Unit): Answer {
        if (!services.otherApps.mayAsk.value) throw EngineException(Problem.AskingIsOff)
        services.startup.state.first { it.isDone } // the question may be what has started this process
        return services.models.use { engine ->
            val ready = services.models.state.value as? ModelHolder.State.Ready
                ?: throw EngineException(Problem.NoModel)
            val manifest = checkNotNull(ready.bundle.manifest)
            val settings = request.settings
            val chat = manifest.chat.thatThinks(settings.thinks)
            val task = manifest.tasks["chat"]
            val fed = request.messages.map { if (it.role == Role.USER && task != null) it.filledInto(task) else it }
            val systemPrompt = settings.systemPrompt(chat.systemPrompt)
            val adapter = settings.adapter?.let {
                withContext(services.io) { services.adapters.find(it, ready.bundle, ready.program) }
            }
            val session =
                ChatSession(engine, chat, manifest.tokenizer.specialTokens, fed.dropLast(1), systemPrompt, adapter)
            // What an answer took would tell how its question begins like one of somebody else.
            if (asked != Triple(uid, engine, engine.uses)) engine.reset()
            try {
                val longest = OwnSettings(manifest).maxNewTokens
                session.ask(fed.last().text, settings.request(chat.sampling, longest), onText)
            } finally {
                asked = Triple(uid, engine, engine.uses)
            }
        }
    }
}

private fun Message.filledInto(task: Task) = copy(text = task.fill(text))
