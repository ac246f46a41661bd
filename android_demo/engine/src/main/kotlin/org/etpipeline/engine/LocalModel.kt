package org.etpipeline.engine

import java.io.File
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.launch
import org.etpipeline.core.Answer
import org.etpipeline.core.BundleException
import org.etpipeline.core.ChatSession
import org.etpipeline.core.EngineException
import org.etpipeline.core.Manifest
import org.etpipeline.core.PhoneFacts
import org.etpipeline.core.Problem
import org.etpipeline.core.chooseProgram
import org.etpipeline.core.readManifest

/**
 * A bundle's model, for an app that wants answers: everything else of this library is for those who want more.
 *
 * Nothing is loaded before the first question.
 *
 * @param folder with the bundle's files, as `BundleStore` of core leaves them.
 * @param soc the phone's chip, `Build.SOC_MODEL`, for bundles that have programs for certain chips.
 * @throws BundleException no bundle lies there, or none of its programs runs here.
 */
class LocalModel @JvmOverloads constructor(folder: File, soc: String = "") : AutoCloseable {
    /** What the bundle says of itself. */
    val manifest: Manifest = readManifest(folder.resolve(Manifest.FILE_NAME).let { file ->
        if (file.isFile) file.readText() else throw BundleException(Problem.NoManifest)
    })
    private val phone = PhoneFacts("this phone", soc, executorchBackends(), RUNTIME_VERSION, QAIRT_VERSION)
    private val engine = openEngine(folder, manifest, chooseProgram(manifest, phone))
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)

    /** A conversation; any number of them share the model, in turn. */
    @JvmOverloads
    fun chat(systemPrompt: String? = manifest.chat.systemPrompt): ChatSession =
        ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens, systemPrompt = systemPrompt)

    /**
     * The answer to one question, piece by piece; who stops collecting stops the model. Exceptions are those of
     * [ChatSession.ask].
     */
    fun answer(question: String, maxNewTokens: Int = LONGEST_ANSWER): Flow<String> = channelFlow {
        chat().ask(question, maxNewTokens) { piece -> trySend(piece) }
    }.buffer(Channel.UNLIMITED) // the model does not wait for who reads

    /** What a Java caller is told, on a thread of ours. */
    interface Listener {
        /** More of the answer has come. */
        fun onText(piece: String)

        /** The answer is at its end; nothing more is told. */
        fun onDone(answer: Answer)

        /** It went wrong; nothing more is told. */
        fun onProblem(problem: Problem)
    }

    /** The same for Java. Closing what is returned stops the answer; nothing is told then. */
    fun answer(question: String, maxNewTokens: Int, listener: Listener): AutoCloseable {
        val job = scope.launch {
            try {
                listener.onDone(chat().ask(question, maxNewTokens, onText = listener::onText))
            } catch (error: EngineException) {
                listener.onProblem(error.problem)
            }
        }
        return AutoCloseable { job.cancel() }
    }

    /** Ends what is being answered, and frees the model. */
    override fun close() {
        scope.cancel()
        engine.close()
    }

    private companion object {
        const val LONGEST_ANSWER = 256
    }
}
