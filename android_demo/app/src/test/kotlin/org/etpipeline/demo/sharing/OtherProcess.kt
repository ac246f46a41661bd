package org.etpipeline.demo.sharing

import android.os.DeadObjectException
import android.os.IBinder
import android.os.IInterface
import android.os.Parcel
import android.os.TransactionTooLargeException
import java.util.NoSuchElementException
import java.util.concurrent.Executors
import java.util.concurrent.TimeUnit
import org.etpipeline.core.AnswerEnd
import org.etpipeline.core.Refusal
import org.etpipeline.engine.AskContract
import org.etpipeline.engine.AskListener

/**
 * A Binder of another process, as the one that calls it sees it: what is sent is copied, arrives later, in order and on
 * another thread; and the process can die, or take nothing any more.
 *
 * What is in the parcels and how they are read is that of the Binder behind it, [target].
 */
class OtherProcess(private val target: IBinder) : IBinder by target {
    private val thread = Executors.newSingleThreadExecutor()
    private val recipients = mutableListOf<IBinder.DeathRecipient>()
    @Volatile private var isDead = false

    /** Nothing is taken out of its buffer any more. */
    @Volatile var isFull = false

    /** Bytes of the last call. */
    @Volatile var sent = 0

    @Volatile private var thrown: RuntimeException? = null

    val isWatched: Boolean get() = synchronized(recipients) { recipients.isNotEmpty() }

    fun die() {
        isDead = true
        synchronized(recipients) { recipients.toList().also { recipients.clear() } }.forEach { it.binderDied() }
    }

    /** Waits until all has arrived that was sent, and throws what that has thrown. */
    fun settle() {
        thread.submit {}.get(10, TimeUnit.SECONDS)
        thrown?.let { throw it }
    }

    override fun transact(code: Int, data: Parcel, reply: Parcel?, flags: Int): Boolean {
        if (isDead) throw DeadObjectException()
        check(flags == IBinder.FLAG_ONEWAY && reply == null) { "nobody waits for another app" }
        if (isFull) throw TransactionTooLargeException()
        sent = data.dataSize()
        val copy = Parcel.obtain().apply { appendFrom(data, 0, data.dataSize()) }
        thread.execute {
            try {
                target.transact(code, copy, null, flags)
            } catch (error: RuntimeException) { // Android logs what a one-way call throws
                thrown = error
            } finally {
                copy.recycle()
            }
        }
        return true
    }

    override fun linkToDeath(recipient: IBinder.DeathRecipient, flags: Int) {
        if (isDead) throw DeadObjectException()
        synchronized(recipients) { recipients += recipient }
    }

    override fun unlinkToDeath(recipient: IBinder.DeathRecipient, flags: Int): Boolean {
        if (isDead) return false
        if (!synchronized(recipients) { recipients.remove(recipient) }) throw NoSuchElementException()
        return true
    }

    override fun pingBinder() = !isDead
    override fun isBinderAlive() = !isDead
    override fun queryLocalInterface(descriptor: String): IInterface? = null
}

/** One that asks, with what it was told. */
internal class Asker : AskListener() {
    /** In another process than the one that answers. */
    val binder = OtherProcess(this)

    @Volatile var text = ""
    @Volatile var end: AnswerEnd? = null
    @Volatile var refusal: Refusal? = null
    val isTold: Boolean get() = end != null || refusal != null

    override fun onText(piece: String) {
        check(!isTold) { "text after the end" }
        text += piece
    }

    override fun onDone(end: AnswerEnd) {
        check(!isTold) { "two ends" }
        this.end = end
    }

    override fun onRefused(refusal: Refusal) {
        check(!isTold) { "two ends" }
        this.refusal = refusal
    }

    /** Calls the service as [AskContract] has it. */
    fun call(
        service: IBinder,
        code: Int = AskContract.ASK,
        json: String = "",
        version: Int = AskContract.VERSION,
    ) {
        val data = Parcel.obtain()
        data.writeInterfaceToken(AskContract.SERVICE)
        data.writeInt(version)
        data.writeStrongBinder(binder)
        data.writeString(json)
        service.transact(code, data, null, IBinder.FLAG_ONEWAY)
        data.recycle()
    }
}
