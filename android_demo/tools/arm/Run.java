import java.io.DataOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;
import org.pytorch.executorch.extension.llm.LlmCallback;
import org.pytorch.executorch.extension.llm.LlmModule;

/**
 * Runs programs in the Android library, as {@code arm.py} asks. What the library refuses is said on a line that begins
 * with REFUSED, and the exit code is 3.
 *
 * <pre>
 * forward PROGRAM OUT CALL...       tokens of each call by commas, the next ones after those before; 0:1,2 begins anew
 * count PROGRAM START PREFILL CHUNK TOKENS     from a position on, which need not be 0, as no instruction depends on what
 *     a cache holds, that many tokens in pieces, then one by one; what is printed last frames that, for count.c
 * embed PROGRAM OUT TEXT...         tokens of each text by commas
 * answer PROGRAM TOKENIZER LENGTH IN OUT   prompts and answers, each followed by a zero byte
 * </pre>
 *
 * OUT of the first two has the numbers of all results, one behind the other, as big-endian floats.
 */
public final class Run {
  public static void main(String[] arguments) throws Exception {
    try {
      String[] rest = Arrays.copyOfRange(arguments, 3, arguments.length);
      switch (arguments[0]) {
        case "forward" -> forward(arguments[1], arguments[2], rest);
        case "count" -> count(arguments[1], Integer.parseInt(arguments[2]), rest);
        case "embed" -> embed(arguments[1], arguments[2], rest);
        case "answer" -> answer(arguments[1], arguments[2], Integer.parseInt(rest[0]), rest[1], rest[2]);
        default -> throw new IllegalArgumentException(arguments[0]);
      }
    } catch (RuntimeException error) {
      System.out.println("REFUSED " + error.getClass().getSimpleName() + ": " + error.getMessage());
      System.exit(3);
    }
    System.exit(0); // a thread of the library would keep the JVM alive
  }

  private static long[] tokens(String text) {
    return Arrays.stream(text.split(",")).mapToLong(Long::parseLong).toArray();
  }

  private static EValue of(long... values) {
    return EValue.from(Tensor.fromBlob(values, new long[] {1, values.length}));
  }

  private static void write(DataOutputStream out, EValue[] found) throws Exception {
    for (float value : found[0].toTensor().getDataAsFloatArray()) out.writeFloat(value);
  }

  private static void forward(String program, String file, String[] calls) throws Exception {
    long start = 0;
    try (Module module = Module.load(program);
        DataOutputStream out = new DataOutputStream(Files.newOutputStream(Path.of(file)))) {
      for (String call : calls) {
        if (call.startsWith("0:")) start = 0;
        long[] tokens = tokens(call.substring(call.indexOf(':') + 1));
        EValue position = EValue.from(Tensor.fromBlob(new long[] {start}, new long[] {1}));
        write(out, module.forward(of(tokens), position));
        start += tokens.length;
      }
    }
  }

  private static void step(Module module, int start, int size) {
    long[] tokens = new long[size];
    Arrays.fill(tokens, 5);
    module.forward(of(tokens), EValue.from(Tensor.fromBlob(new long[] {start}, new long[] {1})));
  }

  private static void count(String program, int first, String[] rest) {
    int prefill = first + Integer.parseInt(rest[0]), chunk = Integer.parseInt(rest[1]);
    int end = prefill + Integer.parseInt(rest[2]);
    try (Module module = Module.load(program)) {
      step(module, first, 1); // the first one loads
      System.out.println("loaded"); // the first line costs more than others
      System.out.println("from here");
      for (int start = first; start < end; ) {
        int size = start < prefill ? Math.min(chunk, prefill - start) : 1;
        step(module, start, size);
        start += size;
      }
      System.out.println("to here");
    }
  }

  private static void embed(String program, String file, String[] texts) throws Exception {
    try (Module module = Module.load(program);
        DataOutputStream out = new DataOutputStream(Files.newOutputStream(Path.of(file)))) {
      for (String text : texts) write(out, module.forward(of(tokens(text))));
    }
  }

  private static void answer(String program, String tokenizer, int length, String in, String file) throws Exception {
    StringBuilder out = new StringBuilder();
    try (LlmModule module = new LlmModule(program, tokenizer, 0f)) {
      module.load();
      for (String prompt : Files.readString(Path.of(in)).split("\0")) {
        module.resetContext();
        LlmCallback append =
            new LlmCallback() {
              @Override
              public void onResult(String piece) {
                out.append(piece);
              }

              @Override
              public void onStats(String stats) {}

              @Override
              public void onError(int code, String message) {
                throw new IllegalStateException(code + " " + message);
              }
            };
        module.generate(prompt, length, append, false);
        out.append('\0');
      }
      Files.writeString(Path.of(file), out); // before it is closed, which a core of ARMv8.0 does not survive
    }
  }
}
