import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.notification.Failure;
import org.junit.runner.notification.RunListener;

/**
 * Runs JUnit classes and writes what happened to a file: RunTests RESULTS CLASS...
 *
 * <p>Not to standard output, because the native library prints every token there.
 */
final class RunTests {
    public static void main(String[] args) throws Exception {
        PrintStream results = new PrintStream(Files.newOutputStream(Path.of(args[0])), true, StandardCharsets.UTF_8);
        JUnitCore core = new JUnitCore();
        core.addListener(new RunListener() {
            private long started;
            private boolean failed;

            @Override
            public void testStarted(Description test) {
                started = System.nanoTime();
                failed = false;
            }

            @Override
            public void testFailure(Failure failure) {
                failed = true;
                results.println("FAILED\t" + failure.getTestHeader() + "\t0");
                failure.getTrace().lines().limit(40).forEach(line -> results.println("\t" + line));
            }

            @Override
            public void testAssumptionFailure(Failure failure) {
                failed = true;
                results.println("SKIPPED\t" + failure.getTestHeader() + "\t0\n\t" + failure.getMessage());
            }

            @Override
            public void testIgnored(Description test) {
                results.println("SKIPPED\t" + test.getDisplayName() + "\t0");
            }

            @Override
            public void testFinished(Description test) {
                if (!failed) {
                    results.println("PASSED\t" + test.getDisplayName() + "\t" + (System.nanoTime() - started) / 1_000_000);
                }
            }
        });
        Class<?>[] classes = new Class<?>[args.length - 1];
        for (int i = 1; i < args.length; i++) {
            classes[i - 1] = Class.forName(args[i]);
        }
        boolean passed = core.run(classes).wasSuccessful();
        results.println("DONE");
        results.close();
        // Robolectric's and fbjni's threads are no daemons: they would keep the process alive.
        System.exit(passed ? 0 : 1);
    }
}
