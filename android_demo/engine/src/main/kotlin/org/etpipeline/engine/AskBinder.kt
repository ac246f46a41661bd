package org.etpipeline.engine

import android.os.Binder
import android.os.IBinder
import android.os.Parcel
import android.os.RemoteException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import org.etpipeline.core.Answer
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.AskRequest
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.core.Problem
import org.etpipeline.core.Refusal

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
 * @param answer has the model answer, and ends soon when it is cancelled. What it throws of [EngineException] and
 *   [BundleException] is a refusal.
 */
class AskBinder(
    private val mayAsk: (uid: Int) -> Boolean,
    private val sentence: (Problem) -> String,
    private val answer: suspend (request: AskRequest, onText: (String) -> Unit) -> Answer,
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
        if (code == AskContract.CANCEL) {
            synchronized(asking) { asking[listener] }?.end()
            return true
        }
        val question = Question(listener)
        try {
            if (!mayAsk(getCallingUid())) throw EngineException(Problem.AskingNotAllowed)
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
                scope.launch(start = CoroutineStart.LAZY) { turn.withLock { answer(question, request) } }
                    .also { question.job = it }
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

    private suspend fun answer(question: Question, request: AskRequest) = try {
        val answer = answer(request) { piece -> question.say(AskContract.TEXT, piece) }
        question.say(AskContract.DONE, AnswerEnd(answer).toJson())
    } catch (error: EngineException) {
        question.refuse(error.problem)
    } catch (error: BundleException) {
        question.refuse(error.problem)
    }

    /** One question, of which nothing is said after its end. */
    private inner class Question(val listener: IBinder) : IBinder.DeathRecipient {
        @Volatile var job: Job? = null
        private var isOver = false
        private var isWatched = false

        /** Sends a piece of the answer, or its end. */
        fun say(code: Int, text: String) {
            if (!isSent(code, text)) job?.cancel()
        }

        fun refuse(problem: Problem) {
            say(AskContract.REFUSED, Refusal.of(problem, sentence(problem)).toJson())
            job?.cancel()
        }

        /** Nobody wants the answer any more. */
        fun end() {
            synchronized(this) { isOver = true }
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
        private fun isSent(code: Int, text: String): Boolean {
            if (isOver) return false
            isOver = code != AskContract.TEXT
            return reaches { listener.send(code, AskContract.LISTENER) { writeString(text) } }
        }

        /** Whether the other process is there; it may also be frozen, and what is sent to it has no more room. */
        private inline fun reaches(call: () -> Unit): Boolean = try {
            call()
            true
        } catch (_: RemoteException) {
            false
        }
    }
}
