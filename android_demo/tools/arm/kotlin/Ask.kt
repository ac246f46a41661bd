import java.io.File
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.ChatSession
import org.etpipeline.core.Manifest
import org.etpipeline.core.readManifest
import org.etpipeline.engine.ModuleEngine

/** Asks a bundle's model, with the app's own engine, one question after the other: `AskKt FOLDER QUESTION ...`. */
fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val manifest = readManifest(File(folder, Manifest.FILE_NAME).readText())
    ModuleEngine(folder, manifest.programs.first(), manifest.tokenizer, Int.MAX_VALUE, threads = 1).use { engine ->
        val chat = ChatSession(engine, manifest.chat, manifest.tokenizer.specialTokens)
        for (question in arguments.drop(1)) {
            val answer = runBlocking { chat.ask(question, maxNewTokens = 48) }
            println("${answer.generation.promptTokens} ${answer.text}")
        }
    }
    exitProcess(0) // a thread of the runtime's Java part does not end by itself
}
