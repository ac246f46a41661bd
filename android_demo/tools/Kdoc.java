import java.nio.file.Files;
import java.nio.file.Path;
import org.jetbrains.dokka.ConfigurationJsonUtilsKt;
import org.jetbrains.dokka.DokkaGenerator;
import org.jetbrains.dokka.utilities.DokkaConsoleLogger;

/** Dokka with the settings in a JSON file, as its own command line has it. */
public final class Kdoc {
    public static void main(String[] arguments) throws Exception {
        String settings = Files.readString(Path.of(arguments[0]));
        var configuration = ConfigurationJsonUtilsKt.DokkaConfigurationImpl(settings);
        new DokkaGenerator(configuration, new DokkaConsoleLogger()).generate();
        System.exit(0); // threads of its Kotlin analysis stay
    }
}
