import java.io.File
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking
import org.etpipeline.engine.LocalModel

/** Another app in a few lines: asks a bundle's model, as Kotlin does and as Java does. */
fun main(arguments: Array<String>) {
    val (folder, question) = arguments
    LocalModel(File(folder)).use { model ->
        runBlocking {
            model.answer(question).collect { piece -> print(piece) }
            println()
            val chat = model.chat()
            println(chat.ask(question, maxNewTokens = 64).text)
            println(chat.ask("And of Spain?", maxNewTokens = 64).text)
        }
        println(FromJava.ask(model, question))
    }
    exitProcess(0) // a thread of the runtime's Java part does not end by itself
}
