import android.content.Context
import org.etpipeline.core.Message
import org.etpipeline.core.Role
import org.etpipeline.engine.RefusedException
import org.etpipeline.engine.RemoteModel

/** The same without a model of its own: asks that of another app, which has it in memory for all that ask. */
suspend fun askOtherApp(context: Context, packageName: String, question: String): String = try {
    RemoteModel(context, packageName).use { model ->
        val said = mutableListOf(Message(Role.USER, question))
        val first = model.ask(said) { piece -> print(piece) }.text
        said += Message(Role.ASSISTANT, first) // the other app remembers nothing
        said += Message(Role.USER, "And of Spain?")
        "$first ${model.ask(said).text}"
    }
} catch (refused: RefusedException) {
    refused.refusal.sentence
}
