import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.ObjectInputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import java.util.zip.GZIPInputStream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import org.codehaus.mojo.animal_sniffer.Clazz;
import org.objectweb.asm.ClassReader;
import org.objectweb.asm.ClassVisitor;
import org.objectweb.asm.ConstantDynamic;
import org.objectweb.asm.FieldVisitor;
import org.objectweb.asm.Handle;
import org.objectweb.asm.Label;
import org.objectweb.asm.MethodVisitor;
import org.objectweb.asm.Opcodes;
import org.objectweb.asm.Type;

/**
 * Lists what classes use that the lower of two API levels lacks: ApiCheck LOW_SIGNATURES HIGH_SIGNATURES CLASSES
 * LIBRARIES, the latter two as class paths. Each line has, with tabs between: whether the higher level has it ('newer')
 * or not ('unknown'), what is used, the source file, the lines in it. The last line counts the references looked at.
 *
 * <p>The signatures are Animal Sniffer's, the checker is not: it passes over members of the app's own classes, and what
 * an activity of the app inherits from Android's Activity is referred to as one of those. Here a member is looked up
 * as the virtual machine does it.
 */
final class ApiCheck {
    /** What a class declares; members as name(descriptor) and name#descriptor. */
    record Declared(Set<String> members, List<String> parents) {}

    /** Classes by their name, those of the app and of libraries before those of Android. */
    static final class World {
        private final Map<String, Declared> known = new HashMap<>();
        private final Map<String, ZipFile> entries;
        private final List<Path> folders;
        private final Map<String, Clazz> signatures;

        World(Map<String, ZipFile> entries, List<Path> folders, Map<String, Clazz> signatures) {
            this.entries = entries;
            this.folders = folders;
            this.signatures = signatures;
        }

        boolean isApi(String name) {
            return signatures.containsKey(name) && declaredInCode(name) == null;
        }

        Declared find(String name) {
            if (!known.containsKey(name)) {
                Declared found = declaredInCode(name);
                Clazz clazz = signatures.get(name);
                if (found == null && clazz != null) {
                    Stream<String> parents = Stream.of(clazz.getSuperInterfaces());
                    found = new Declared(
                            clazz.getSignatures(),
                            Stream.concat(Stream.ofNullable(clazz.getSuperClass()), parents).toList());
                }
                known.put(name, found);
            }
            return known.get(name);
        }

        private Declared declaredInCode(String name) {
            String file = name + ".class";
            try {
                if (entries.containsKey(file)) {
                    ZipFile zip = entries.get(file);
                    try (InputStream stream = zip.getInputStream(zip.getEntry(file))) {
                        return declared(stream.readAllBytes());
                    }
                }
                for (Path folder : folders) {
                    if (Files.isRegularFile(folder.resolve(file))) {
                        return declared(Files.readAllBytes(folder.resolve(file)));
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return null;
        }

        /** The class that declares a member, from a class upwards; null where nothing above does. */
        String holder(String owner, String member) {
            Declared here = find(owner);
            if (here == null) {
                return null;
            }
            if (here.members.contains(member)) {
                return owner;
            }
            if (!member.startsWith("<init>")) {
                for (String parent : here.parents) {
                    String found = holder(parent, member);
                    if (found != null) {
                        return found;
                    }
                }
            }
            return null;
        }

        /** The nearest class of Android or Java from a class upwards. */
        String nearestApi(String owner) {
            String name = owner;
            while (!isApi(name)) {
                Declared here = find(name);
                if (here == null || here.parents.isEmpty()) {
                    return owner;
                }
                name = here.parents.get(0);
            }
            return name.equals("java/lang/Object") ? owner : name;
        }
    }

    /** A use in the app's code. */
    record Use(String kind, String what, String source) {}

    private static final Set<String> DESUGARED = // D8 replaces both for all levels
            Set.of("java/lang/invoke/LambdaMetafactory", "java/lang/invoke/StringConcatFactory");

    private final World low;
    private final World high;
    private final Map<Use, Set<Integer>> found = new HashMap<>();
    private int references;

    ApiCheck(World low, World high) {
        this.low = low;
        this.high = high;
    }

    private static Declared declared(byte[] content) {
        Set<String> members = new HashSet<>();
        ClassReader reader = new ClassReader(content);
        reader.accept(
                new ClassVisitor(Opcodes.ASM9) {
                    @Override
                    public FieldVisitor visitField(int access, String name, String type, String generic, Object value) {
                        members.add(name + "#" + type);
                        return null;
                    }

                    @Override
                    public MethodVisitor visitMethod(
                            int access, String name, String type, String generic, String[] thrown) {
                        members.add(name + type);
                        return null;
                    }
                },
                ClassReader.SKIP_CODE | ClassReader.SKIP_DEBUG);
        Stream<String> parents = Stream.of(reader.getInterfaces());
        return new Declared(members, Stream.concat(Stream.ofNullable(reader.getSuperName()), parents).toList());
    }

    private static Map<String, Clazz> signatures(String file) throws Exception {
        Map<String, Clazz> classes = new HashMap<>();
        try (ObjectInputStream stream =
                new ObjectInputStream(new GZIPInputStream(new FileInputStream(file), 1 << 16))) {
            for (Clazz clazz = (Clazz) stream.readObject(); clazz != null; clazz = (Clazz) stream.readObject()) {
                classes.put(clazz.getName(), clazz);
            }
        }
        return classes;
    }

    /** Checks the code of one class. */
    private final class Checker extends ClassVisitor {
        private String source = "";
        private int line;
        private List<String> parents = List.of();

        Checker() {
            super(Opcodes.ASM9);
        }

        private void add(boolean inHigh, String what) {
            Use use = new Use(inHigh ? "newer" : "unknown", what, source);
            found.computeIfAbsent(use, key -> new TreeSet<>()).add(line);
        }

        private void type(Type type) {
            switch (type.getSort()) {
                case Type.ARRAY -> type(type.getElementType());
                case Type.METHOD -> {
                    type(type.getReturnType());
                    Stream.of(type.getArgumentTypes()).forEach(this::type);
                }
                case Type.OBJECT -> {
                    references++;
                    if (low.find(type.getInternalName()) == null) {
                        add(high.find(type.getInternalName()) != null, type.getClassName());
                    }
                }
                default -> {}
            }
        }

        private void named(String internalName) {
            if (internalName != null) {
                type(Type.getObjectType(internalName));
            }
        }

        private void member(String owner, String name, String type) {
            if (owner.startsWith("[")) { // its methods are those of Object
                named(owner);
                return;
            }
            if (low.find(owner) == null) {
                named(owner); // one line for the class, whatever is used of it
                return;
            }
            references++;
            String member = name + (type.startsWith("(") ? "" : "#") + type;
            if (low.holder(owner, member) == null) {
                String holder = high.holder(owner, member);
                add(holder != null, text(holder == null ? high.nearestApi(owner) : holder, name, type));
            }
        }

        private void constant(Object value) {
            if (value instanceof Type type) {
                type(type);
            } else if (value instanceof Handle handle) {
                member(handle.getOwner(), handle.getName(), handle.getDesc());
            } else if (value instanceof ConstantDynamic dynamic) {
                bootstrap(dynamic.getBootstrapMethod());
                for (int i = 0; i < dynamic.getBootstrapMethodArgumentCount(); i++) {
                    constant(dynamic.getBootstrapMethodArgument(i));
                }
            }
        }

        private void bootstrap(Handle handle) {
            if (!DESUGARED.contains(handle.getOwner())) {
                constant(handle);
            }
        }

        @Override
        public void visitSource(String file, String debug) {
            source = file;
        }

        @Override
        public void visit(int version, int access, String name, String generic, String parent, String[] interfaces) {
            parents = Stream.concat(Stream.ofNullable(parent), Stream.of(interfaces)).toList();
        }

        @Override
        public void visitEnd() {
            line = 0;
            parents.forEach(this::named); // not before the source file is known
        }

        @Override
        public FieldVisitor visitField(int access, String name, String type, String generic, Object value) {
            line = 0;
            type(Type.getType(type));
            return null;
        }

        @Override
        public MethodVisitor visitMethod(int access, String name, String type, String generic, String[] thrown) {
            line = 0;
            type(Type.getMethodType(type));
            if (thrown != null) {
                Stream.of(thrown).forEach(this::named);
            }
            return new MethodVisitor(Opcodes.ASM9) {
                @Override
                public void visitLineNumber(int number, Label start) {
                    line = number;
                }

                @Override
                public void visitTypeInsn(int opcode, String name) {
                    named(name);
                }

                @Override
                public void visitFieldInsn(int opcode, String owner, String name, String type) {
                    member(owner, name, type);
                }

                @Override
                public void visitMethodInsn(int opcode, String owner, String name, String type, boolean ofInterface) {
                    member(owner, name, type);
                }

                @Override
                public void visitInvokeDynamicInsn(String name, String type, Handle bootstrap, Object... arguments) {
                    type(Type.getMethodType(type));
                    bootstrap(bootstrap);
                    Stream.of(arguments).forEach(Checker.this::constant);
                }

                @Override
                public void visitLdcInsn(Object value) {
                    constant(value);
                }

                @Override
                public void visitMultiANewArrayInsn(String type, int dimensions) {
                    type(Type.getType(type));
                }

                @Override
                public void visitTryCatchBlock(Label start, Label end, Label handler, String caught) {
                    named(caught);
                }
            };
        }
    }

    private static String text(String owner, String name, String type) {
        String start = owner.replace('/', '.') + "." + name;
        if (!type.startsWith("(")) {
            return start + ": " + Type.getType(type).getClassName();
        }
        String arguments =
                Stream.of(Type.getArgumentTypes(type)).map(Type::getClassName).collect(Collectors.joining(", "));
        String result = Type.getReturnType(type).getClassName();
        return start + "(" + arguments + ")" + (result.equals("void") ? "" : ": " + result);
    }

    private void check(byte[] content) {
        new ClassReader(content).accept(new Checker(), ClassReader.SKIP_FRAMES);
    }

    private void checkAll(Path place) throws IOException {
        if (Files.isDirectory(place)) {
            try (Stream<Path> files = Files.walk(place)) {
                for (Path file : files.filter(path -> path.toString().endsWith(".class")).toList()) {
                    check(Files.readAllBytes(file));
                }
            }
            return;
        }
        try (ZipFile zip = new ZipFile(place.toFile())) {
            for (ZipEntry entry : classesIn(zip)) {
                check(zip.getInputStream(entry).readAllBytes());
            }
        }
    }

    private static List<ZipEntry> classesIn(ZipFile zip) {
        Stream<? extends ZipEntry> entries = zip.stream();
        return entries.filter(entry -> entry.getName().endsWith(".class") && !entry.getName().startsWith("META-INF/"))
                .map(ZipEntry.class::cast)
                .toList();
    }

    private static List<Path> places(String classPath) {
        return Stream.of(classPath.split(File.pathSeparator)).map(Path::of).toList();
    }

    public static void main(String[] args) throws Exception {
        List<Path> checked = places(args[2]);
        Map<String, ZipFile> entries = new HashMap<>();
        List<Path> folders = new ArrayList<>();
        for (Path place : Stream.concat(checked.stream(), places(args[3]).stream()).toList()) {
            if (Files.isDirectory(place)) {
                folders.add(place);
                continue;
            }
            ZipFile zip = new ZipFile(place.toFile());
            classesIn(zip).forEach(entry -> entries.putIfAbsent(entry.getName(), zip));
        }
        ApiCheck check = new ApiCheck(
                new World(entries, folders, signatures(args[0])), new World(entries, folders, signatures(args[1])));
        for (Path place : checked) {
            check.checkAll(place);
        }
        List<String> lines = new ArrayList<>();
        check.found.forEach((use, numbers) -> {
            numbers.remove(0); // outside of the code: a superclass, a field's type
            String where = numbers.stream().map(String::valueOf).collect(Collectors.joining(", "));
            lines.add(String.join("\t", use.kind, use.what, use.source, where));
        });
        lines.stream().sorted().forEach(System.out::println);
        System.out.println("references\t" + check.references);
    }
}
