package org.etpipeline.engine

import android.content.ComponentName
import android.content.Context
import android.content.Intent
import android.content.ServiceConnection
import android.os.IBinder
import android.os.RemoteException
import kotlinx.coroutines.Job
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.filterIsInstance
import kotlinx.coroutines.flow.filterNotNull
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.update
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.AskRequest
import org.etpipeline.core.ChatSettings
import org.etpipeline.core.Message
import org.etpipeline.core.Refusal
import org.etpipeline.core.Role

/**
 * The model of another app on this phone: one copy in memory for all that ask.
 *
 * Your manifest names that app (`<queries><package>`) and its permission ([AskContract.permissionOf]), which the user
 * grants at run time. The model stays loaded while this is open, as long as the phone has the memory.
 *
 * @param context is kept; the application's, where this outlives an activity.
 * @param packageName the app that has the model.
 * @throws RefusedException [Refusal.Reason.NOT_THERE] or [Refusal.Reason.NOT_ALLOWED].
 */
class RemoteModel(private val context: Context, private val packageName: String) : AutoCloseable {
    private val service = MutableStateFlow<Result<IBinder>?>(null) // null: it comes; a failure: nothing is bound
    private val closed = Job()
    private val binding = Any() // guards binding, unbinding and closing

    private val connection = object : ServiceConnection {
        override fun onServiceConnected(name: ComponentName, binder: IBinder) {
            service.update { if (it?.isFailure == true) it else Result.success(binder) }
        }

        override fun onServiceDisconnected(name: ComponentName) { // the system starts it again
            service.update { if (it?.isFailure == true) it else null }
        }

        // It was updated or has gone, and the system does not bind it again.
        override fun onBindingDied(name: ComponentName) = synchronized(binding) {
            if (closed.isActive) {
                context.unbindService(this)
                bind()
            }
        }

        override fun onNullBinding(name: ComponentName) = synchronized(binding) {
            if (closed.isActive) {
                context.unbindService(this)
                service.value = Result.failure(refused(Refusal.Reason.NOT_THERE, "$packageName has no model to ask."))
            }
        }
    }

    init {
        synchronized(binding) { bind() }
        service.value?.getOrThrow()
    }

    /**
     * The answer to one question, piece by piece, as [ask] has it; who stops collecting stops the model. It throws what
     * [ask] throws.
     */
    fun answer(question: String, settings: ChatSettings = ChatSettings()): Flow<String> =
        said(AskRequest(listOf(Message(Role.USER, question)), settings)).filterIsInstance<Said.Text>().map { it.piece }

    /**
     * The answer to a conversation. What a model thinks comes first, between `<think>` and `</think>`; it may stay in
     * what is sent with the next question. `thinks = false` turns it off where the model has a switch for that.
     *
     * @param messages user and assistant in turn; the last one is the question.
     * @param settings what counts instead of the model's own. An adapter that it does not have is refused.
     * @param onText gets the answer's text as it comes.
     * @throws RefusedException it was refused, or the other app has ended or is not there any more. Later questions
     *   look for it again.
     */
    suspend fun ask(
        messages: List<Message>,
        settings: ChatSettings = ChatSettings(),
        onText: (String) -> Unit = {},
    ): RemoteAnswer {
        val text = StringBuilder()
        var end: AnswerEnd? = null
        said(AskRequest(messages, settings)).collect { said ->
            when (said) {
                is Said.Text -> {
                    text.append(said.piece)
                    onText(said.piece)
                }
                is Said.End -> end = said.end
            }
        }
        return RemoteAnswer(text.toString(), checkNotNull(end))
    }

    /** Lets the other app free the model, if nobody else asks it. What is being answered ends. */
    override fun close() {
        synchronized(binding) {
            if (!closed.complete()) return
            if (service.value?.isFailure != true) context.unbindService(connection)
            service.value = Result.failure(refused(Refusal.Reason.FAILED, "The model was closed."))
        }
    }

    /** Binds, or says in [service] why it cannot; under [binding]. */
    private fun bind() {
        service.value = null
        val why = try {
            if (context.bindService(intent(), connection, Context.BIND_AUTO_CREATE)) return
            refused(Refusal.Reason.NOT_THERE, "$packageName is not installed, or has no model to ask.")
        } catch (error: SecurityException) {
            refused(Refusal.Reason.NOT_ALLOWED, "$packageName lets only apps with its permission ask.", error)
        }
        context.unbindService(connection) // Android wants it even so
        service.value = Result.failure(why)
    }

    /** The other app as soon as it is there; one that had gone may have come back. */
    private suspend fun there(): IBinder {
        synchronized(binding) { if (closed.isActive && service.value?.isFailure == true) bind() }
        return service.filterNotNull().first().getOrThrow()
    }

    private fun said(request: AskRequest): Flow<Said> = callbackFlow {
        val json = request.toJson()
        if (json.length > AskRequest.LONGEST) {
            val most = AskRequest.LONGEST
            val sentence = "The conversation has ${json.length} characters, and at most $most can be sent."
            throw refused(Refusal.Reason.TOO_LONG, sentence)
        }
        val binder = there()
        val onClose = closed.invokeOnCompletion { close(refused(Refusal.Reason.FAILED, "The model was closed.")) }
        val onDeath = IBinder.DeathRecipient { close(gone()) }
        val listener = object : AskListener() {
            override fun onText(piece: String) {
                trySend(Said.Text(piece))
            }

            override fun onDone(end: AnswerEnd) {
                trySend(Said.End(end))
                close()
            }

            override fun onRefused(refusal: Refusal) {
                close(RefusedException(refusal))
            }
        }
        var isLinked = false
        try {
            binder.linkToDeath(onDeath, 0)
            isLinked = true
            binder.say(AskContract.ASK, listener, json)
        } catch (error: RemoteException) {
            close(gone(error))
        }
        awaitClose {
            onClose.dispose()
            if (isLinked) binder.unlinkToDeath(onDeath, 0) // of no link it throws
            try {
                binder.say(AskContract.CANCEL, listener) // of a question that has its answer it means nothing
            } catch (_: RemoteException) {
                // it ended with its app
            }
        }
    }.buffer(Channel.UNLIMITED) // the model does not wait for who reads

    private fun IBinder.say(code: Int, listener: AskListener, json: String = "") = send(code, AskContract.SERVICE) {
        writeInt(AskContract.VERSION)
        writeStrongBinder(listener)
        writeString(json)
    }

    private fun gone(cause: Throwable? = null) = refused(Refusal.Reason.FAILED, "$packageName has ended.", cause)

    private fun intent() = Intent(AskContract.ACTION).setPackage(packageName)

    private fun refused(reason: Refusal.Reason, sentence: String, cause: Throwable? = null) =
        RefusedException(Refusal(reason, sentence), cause)

    private sealed interface Said {
        class Text(val piece: String) : Said

        class End(val end: AnswerEnd) : Said
    }
}

/**
 * An answer of another app's model.
 *
 * @property text all of it.
 * @property end what it took.
 */
data class RemoteAnswer(val text: String, val end: AnswerEnd)

/**
 * There is no answer, or no whole one. Its message is a sentence; of the other app's refusals in its language.
 *
 * @property refusal why.
 */
class RefusedException(val refusal: Refusal, cause: Throwable? = null) : Exception(refusal.sentence, cause)
