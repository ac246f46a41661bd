package org.etpipeline.engine

import android.os.Binder
import android.os.IBinder
import android.os.Parcel
import android.os.RemoteException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import org.etpipeline.core.Answer
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.AskRequest
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.etpipeline.core.Refusal

/** How often an end is said once more that found no room, and how long after the first time; then twice that. */
private const val RETRIES = 6
private const val FIRST_RETRY_MS = 100L

/**
 * What a bound `Service` returns to let other apps ask a model, as [AskContract] says.
 *
 * One question is answered at a time, in the order in which they came; [AskContract.MOST_WAITING] wait, and more are
 * refused. A question ends when it is cancelled, when the app that asked it dies, and when that app does not take what
 * it is sent.
 *
 * The service itself belongs to the app: which model answers, who may ask and in which language a refusal is said is
 * not the library's to decide, and no app should have an exported service by depending on a library.
 *
 * @param mayAsk whether an app, by its uid, was granted the permission. It is asked at every call: a Binder can be
 *   handed on by an app that has it.
 * @param sentence what is said to the user of the other app.
 * @param answer has the model answer the app with that uid, and ends soon when it is cancelled. What it throws is a
 *   refusal.
 */
class AskBinder(
    private val mayAsk: (uid: Int) -> Boolean,
    private val sentence: (Problem) -> String,
    private val answer: suspend (uid: Int, request: AskRequest, onText: (String) -> Unit) -> Answer,
) : Binder(), AutoCloseable {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default.limitedParallelism(1)) // so in order
    private val turn = Mutex()
    private val asking = LinkedHashMap<IBinder, Question>() // by listener; guarded by itself

    init {
        attachInterface(null, AskContract.SERVICE)
    }

    override fun onTransact(code: Int, data: Parcel, reply: Parcel?, flags: Int): Boolean {
        if (code != AskContract.ASK && code != AskContract.CANCEL) return super.onTransact(code, data, reply, flags)
        data.enforceInterface(AskContract.SERVICE)
        val version = data.readInt()
        val listener = data.readStrongBinder() ?: return true // there is nobody to tell
        if (listener === this) return true // nor is this one who listens
        if (code == AskContract.CANCEL) {
            synchronized(asking) { asking[listener] }?.end()
            return true
        }
        val question = Question(listener, getCallingUid())
        try {
            if (!mayAsk(question.uid)) throw EngineException(Problem.AskingNotAllowed)
            if (version > AskContract.VERSION) {
                throw EngineException(Problem.NewerQuestion(version, AskContract.VERSION))
            }
            if (data.dataSize() > AskContract.LARGEST_CALL) {
                throw EngineException(Problem.QuestionTooLong(data.dataSize() / 2, AskRequest.LONGEST))
            }
            if (!scope.isActive) throw EngineException(Problem.EngineClosed)
            take(question, AskRequest.read(data.readString().orEmpty()))
        } catch (error: EngineException) {
            question.refuse(error.problem)
        }
        return true
    }

    /** Refuses what is asked or answered now; later questions are taken. */
    fun refuseAll(problem: Problem) = synchronized(asking) { asking.values.toList() }.forEach { it.refuse(problem) }

    /** Refuses everything, later questions too: somebody may still hold this. */
    override fun close() {
        refuseAll(Problem.EngineClosed)
        scope.cancel()
    }

    private fun take(question: Question, request: AskRequest) {
        var before: Question?
        val job = synchronized(asking) {
            before = asking[question.listener]
            if (before == null) {
                if (asking.size > AskContract.MOST_WAITING) {
                    throw EngineException(Problem.TooManyQuestions(AskContract.MOST_WAITING))
                }
                asking[question.listener] = question
                scope.launch(start = CoroutineStart.LAZY) { answerInTurn(question, request) }.also { question.job = it }
            } else {
                null
            }
        }
        if (job == null) { // the answers could not be told apart
            before?.end()
            throw EngineException(Problem.BadQuestion("one listener for two questions"))
        }
        job.invokeOnCompletion {
            synchronized(asking) { asking.remove(question.listener) }
            question.unwatch()
        }
        question.watch()
        job.start()
    }

    private suspend fun answerInTurn(question: Question, request: AskRequest) = try {
        turn.withLock { answer(question, request) }
    } finally {
        withContext(NonCancellable) { question.tellEnd() }
    }

    private suspend fun answer(question: Question, request: AskRequest) = try {
        val answer = answer(question.uid, request, question::say)
        question.finish(AskContract.DONE, AnswerEnd(answer).toJson())
    } catch (cancelled: CancellationException) {
        throw cancelled
    } catch (error: EngineException) {
        question.refuse(error.problem)
    } catch (error: BundleException) {
        question.refuse(error.problem)
    } catch (error: Exception) { // of whoever answers; no question may end the app
        question.refuse(Problem.EngineFailed(error.toString()))
    }

    /** One question, of which nothing is said after its end. */
    private inner class Question(val listener: IBinder, val uid: Int) : IBinder.DeathRecipient {
        @Volatile var job: Job? = null
        private var isOver = false
        private var untold: Pair<Int, String>? = null // the end, when it found no room
        private var isWatched = false

        /** Sends a piece of the answer. Without room for it there is no whole answer, and the question ends so. */
        fun say(piece: String) {
            val isSent = synchronized(this) { !isOver && isSent(AskContract.TEXT, piece) }
            if (!isSent) refuse(Problem.EngineFailed("what it said was not taken"))
        }

        fun refuse(problem: Problem) {
            finish(AskContract.REFUSED, Refusal.of(problem, sentence(problem)).toJson())
            job?.cancel()
        }

        /** Sends the end of the answer. */
        @Synchronized
        fun finish(code: Int, text: String) {
            if (isOver) return
            isOver = true
            if (!isSent(code, text)) untold = code to text
        }

        /** Tries again, a few times, to say the end where it found no room: whoever asked would wait for ever. */
        suspend fun tellEnd() {
            var tries = 0
            while (!isTold() && tries < RETRIES) delay(FIRST_RETRY_MS shl tries++)
        }

        /** Nobody wants the answer any more. */
        fun end() {
            synchronized(this) {
                isOver = true
                untold = null
            }
            job?.cancel()
        }

        override fun binderDied() = end()

        fun watch() {
            isWatched = reaches { listener.linkToDeath(this, 0) }
            if (!isWatched) end()
        }

        fun unwatch() {
            if (isWatched) listener.unlinkToDeath(this, 0)
        }

        @Synchronized
        private fun isTold(): Boolean {
            val (code, text) = untold ?: return true
            if (listener.isBinderAlive && !isSent(code, text)) return false
            untold = null
            return true
        }

        private fun isSent(code: Int, text: String): Boolean =
            reaches { listener.send(code, AskContract.LISTENER) { writeString(text) } }

        /** Whether the other process is there; it may also be frozen, and what is sent to it has no more room. */
        private inline fun reaches(call: () -> Unit): Boolean = try {
            call()
            true
        } catch (_: RemoteException) {
            false
        } catch (_: RuntimeException) { // it named a Binder of this process, which throws right here
            false
        }
    }
}
