import java.util.concurrent.CompletableFuture;
import org.etpipeline.core.Answer;
import org.etpipeline.core.Problem;
import org.etpipeline.engine.LocalModel;

/** The same from Java. */
final class FromJava {
    static String ask(LocalModel model, String question) {
        CompletableFuture<String> text = new CompletableFuture<>();
        model.answer(question, 64, new LocalModel.Listener() {
            @Override
            public void onText(String piece) {}

            @Override
            public void onDone(Answer answer) {
                text.complete(answer.getText());
            }

            @Override
            public void onProblem(Problem problem) {
                text.completeExceptionally(new IllegalStateException(problem.toString()));
            }
        });
        return text.join();
    }
}
