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
    private val service = MutableStateFlow<IBinder?>(null)
    private val closed = Job()

    private val connection = object : ServiceConnection {
        override fun onServiceConnected(name: ComponentName, binder: IBinder) {
            service.value = binder
        }

        override fun onServiceDisconnected(name: ComponentName) { // the system starts it again
            service.value = null
        }

        override fun onBindingDied(name: ComponentName) { // it was updated, and the system does not bind it again
            service.value = null
            context.unbindService(this)
            context.bindService(intent(), this, Context.BIND_AUTO_CREATE)
        }
    }

    init {
        val isThere = try {
            context.bindService(intent(), connection, Context.BIND_AUTO_CREATE)
        } catch (error: SecurityException) {
            throw refused(Refusal.Reason.NOT_ALLOWED, "$packageName lets only apps with its permission ask.", error)
        }
        if (!isThere) {
            context.unbindService(connection) // Android wants it even so
            throw refused(Refusal.Reason.NOT_THERE, "$packageName is not installed, or has no model to ask.")
        }
    }

    /** The answer to one question, piece by piece; who stops collecting stops the model. It throws what [ask] throws. */
    fun answer(question: String, settings: ChatSettings = ChatSettings()): Flow<String> =
        said(AskRequest(listOf(Message(Role.USER, question)), settings)).filterIsInstance<Said.Text>().map { it.piece }

    /**
     * The answer to a conversation.
     *
     * @param messages user and assistant in turn; the last one is the question.
     * @param onText gets the answer's text as it comes.
     * @throws RefusedException it was refused, or the other app has ended.
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
        if (closed.complete()) context.unbindService(connection)
    }

    private fun said(request: AskRequest): Flow<Said> = callbackFlow {
        val json = request.toJson()
        if (json.length > AskRequest.LONGEST) {
            val most = AskRequest.LONGEST
            val sentence = "The conversation has ${json.length} characters, and at most $most can be sent."
            throw refused(Refusal.Reason.TOO_LONG, sentence)
        }
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
        val binder = service.filterNotNull().first()
        try {
            binder.linkToDeath(onDeath, 0)
            binder.say(AskContract.ASK, listener, json)
        } catch (error: RemoteException) {
            close(gone(error))
        }
        awaitClose {
            onClose.dispose()
            binder.unlinkToDeath(onDeath, 0)
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
