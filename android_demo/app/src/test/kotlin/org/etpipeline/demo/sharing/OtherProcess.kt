package org.etpipeline.demo.sharing

import android.os.Binder
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

    val isWatched: Boolean get() = !isDead && synchronized(recipients) { recipients.isNotEmpty() }

    fun die() {
        isDead = true
        synchronized(recipients) { recipients.toList() }.forEach { it.binderDied() }
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
        // Whether it is dead or not, which Android's documentation does not say.
        if (!synchronized(recipients) { recipients.remove(recipient) }) {
            throw NoSuchElementException("Death link does not exist")
        }
        return !isDead
    }

    override fun pingBinder() = !isDead
    override fun isBinderAlive() = !isDead
    override fun queryLocalInterface(descriptor: String): IInterface? = null
}

/** Calls as [AskContract] has it, by hand: a wrong word in the library's own hand would not show between its two ends. */
internal fun IBinder.call(code: Int, descriptor: String, write: Parcel.() -> Unit) {
    val data = Parcel.obtain()
    data.writeInterfaceToken(descriptor)
    data.write()
    transact(code, data, null, IBinder.FLAG_ONEWAY)
    data.recycle()
}

/** One that asks, with what it was told. */
internal class Asker : Binder() {
    /** In another process than the one that answers. */
    val binder = OtherProcess(this)

    @Volatile var text = ""
    @Volatile var end: AnswerEnd? = null
    @Volatile var refusal: Refusal? = null
    val isTold: Boolean get() = end != null || refusal != null

    override fun onTransact(code: Int, data: Parcel, reply: Parcel?, flags: Int): Boolean {
        data.enforceInterface(AskContract.LISTENER)
        check(!isTold) { "something after the end" }
        val said = checkNotNull(data.readString())
        when (code) {
            AskContract.TEXT -> text += said
            AskContract.DONE -> end = AnswerEnd.read(said)
            AskContract.REFUSED -> refusal = Refusal.read(said)
            else -> error("what is $code?")
        }
        return true
    }

    /** Calls the service as [AskContract] has it. */
    fun call(
        service: IBinder,
        code: Int = AskContract.ASK,
        json: String = "",
        version: Int = AskContract.VERSION,
    ) {
        service.call(code, AskContract.SERVICE) {
            writeInt(version)
            writeStrongBinder(binder)
            writeString(json)
        }
    }
}
