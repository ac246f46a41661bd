package org.etpipeline.engine

import android.os.Binder
import android.os.IBinder
import android.os.Parcel
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.AskRequest
import org.etpipeline.core.Refusal

/**
 * How one app asks the model of another: [RemoteModel] asks, [AskBinder] answers.
 *
 * It is AIDL's wire form written by hand, as AIDL's compiler comes with Android's SDK only. All calls are one-way, so
 * that nobody waits in another app's code. Those to the service begin with its descriptor, the [VERSION] of who asks,
 * and the Binder that listens, which also names the question; those to the listener with the listener's descriptor.
 * What is said is text or JSON ([AskRequest], [AnswerEnd], [Refusal]): a field more is no new version, and no class of
 * another app is ever unparcelled. Every question is answered by one `DONE` or `REFUSED`, with any number of `TEXT`
 * before it, unless it was cancelled.
 */
object AskContract {
    /** Of the intent with which the service is bound. */
    const val ACTION = "org.etpipeline.action.ASK_MODEL"

    /** Grows when an older service would misunderstand a question; it refuses what is newer than itself. */
    const val VERSION = 1

    /** Questions that wait while one is answered. */
    const val MOST_WAITING = 4

    /** The permission that the app [packageName] declares, and asks of whoever binds its service. */
    fun permissionOf(packageName: String): String = "$packageName.permission.ASK_MODEL"

    /** Descriptor of the service. */
    const val SERVICE = "org.etpipeline.engine.AskContract"

    /** Descriptor of who listens. */
    const val LISTENER = "org.etpipeline.engine.AskContract.Listener"

    /** To the service: a question, as [AskRequest]'s JSON. */
    const val ASK = IBinder.FIRST_CALL_TRANSACTION

    /** To the service: the question of that listener is not asked any more. */
    const val CANCEL = IBinder.FIRST_CALL_TRANSACTION + 1

    /** To the listener: a piece of the answer. */
    const val TEXT = IBinder.FIRST_CALL_TRANSACTION

    /** To the listener: the answer is complete, with [AnswerEnd]'s JSON. */
    const val DONE = IBinder.FIRST_CALL_TRANSACTION + 1

    /** To the listener: there is no answer, with [Refusal]'s JSON. */
    const val REFUSED = IBinder.FIRST_CALL_TRANSACTION + 2

    /** Bytes of the largest call that is looked at: two for a character, and what stands before them. */
    const val LARGEST_CALL = 2 * AskRequest.LONGEST + 4096
}

/** Sends a call that does not wait; throws RemoteException if the other process is gone or reads nothing any more. */
internal fun IBinder.send(code: Int, descriptor: String, write: Parcel.() -> Unit) {
    val data = Parcel.obtain()
    try {
        data.writeInterfaceToken(descriptor)
        data.write()
        transact(code, data, null, IBinder.FLAG_ONEWAY)
    } finally {
        data.recycle()
    }
}

/** What the service says to one that asks; its calls come on threads of the system. */
internal abstract class AskListener : Binder() {
    abstract fun onText(piece: String)

    abstract fun onDone(end: AnswerEnd)

    abstract fun onRefused(refusal: Refusal)

    override fun onTransact(code: Int, data: Parcel, reply: Parcel?, flags: Int): Boolean {
        if (code !in AskContract.TEXT..AskContract.REFUSED) return super.onTransact(code, data, reply, flags)
        data.enforceInterface(AskContract.LISTENER)
        val text = data.readString().orEmpty()
        try {
            when (code) {
                AskContract.TEXT -> onText(text)
                AskContract.DONE -> onDone(AnswerEnd.read(text))
                else -> onRefused(Refusal.read(text))
            }
        } catch (error: IllegalArgumentException) { // no JSON: whoever answers speaks something else
            onRefused(Refusal(Refusal.Reason.OTHER_VERSION, "The other app's answer cannot be read: ${error.message}"))
        }
        return true
    }
}
