import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;

/**
 * JShell behind a pipe: cells come in by lines, what they do goes out by lines.
 *
 * <p>In: {@code run <code>} or {@code stop}. Out: {@code stdout <text>}, {@code stderr <text>}, {@code result <text>},
 * {@code error <name> <message> <trace>}, and {@code done} after each cell. Texts are base64 of UTF-8. The code itself
 * runs in a process of its own, which JShell starts: there, a cell can be stopped whatever it does.
 */
public final class JavaShell {
    private static final List<String> REMOTE = List.of(
            "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Dstdout.encoding=UTF-8",
            "-Dstderr.encoding=UTF-8", "--add-opens=java.base/java.lang=ALL-UNNAMED",
            "--add-opens=java.base/java.util=ALL-UNNAMED");
    private static final List<String> IMPORTS = List.of(
            "java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.util.*", "java.util.concurrent.*",
            "java.util.function.*", "java.util.regex.*", "java.util.stream.*");

    private final PrintStream wire = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
    private final JShell shell;
    private volatile boolean stopped;

    private JavaShell() {
        shell = JShell.builder()
                .in(InputStream.nullInputStream())
                .out(printer("stdout"))
                .err(printer("stderr"))
                .remoteVMOptions(REMOTE.toArray(String[]::new))
                .build();
        for (String name : IMPORTS) {
            shell.eval("import " + name + ";");
        }
    }

    public static void main(String[] arguments) throws Exception {
        JavaShell me = new JavaShell();
        ExecutorService worker = Executors.newSingleThreadExecutor();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        me.say("done");
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (line.equals("stop")) {
                me.stopped = true;
                me.shell.stop();
            } else {
                String code = new String(Base64.getDecoder().decode(line.substring(4)), StandardCharsets.UTF_8);
                me.stopped = false;
                worker.submit(() -> me.cell(code));
            }
        }
        System.exit(0);
    }

    private void cell(String code) {
        try {
            String rest = code;
            boolean fine = true;
            while (fine && !rest.isBlank() && !stopped) {
                SourceCodeAnalysis.CompletionInfo next = shell.sourceCodeAnalysis().analyzeCompletion(rest);
                boolean whole = next.completeness().isComplete();
                // What is not whole is evaluated all the same: then the compiler says what is wrong with it.
                fine = evaluate(whole ? next.source() : rest, !whole || next.remaining().isBlank());
                rest = whole ? next.remaining() : "";
            }
            if (stopped) {
                say("error", "Interrupted", "the cell was interrupted", "");
            }
        } catch (RuntimeException | Error broken) {
            say("error", broken.getClass().getName(), String.valueOf(broken.getMessage()), "");
        } finally {
            say("done");
        }
    }

    /** Evaluates one snippet; false when it failed. */
    private boolean evaluate(String source, boolean last) {
        if (source.isBlank()) {
            return true;
        }
        for (SnippetEvent event : shell.eval(source)) {
            if (event.causeSnippet() != null) {
                continue;
            }
            if (event.status() == Snippet.Status.REJECTED) {
                String trace = shell.diagnostics(event.snippet())
                        .map(wrong -> wrong.getMessage(null) + "\n  " + source.strip())
                        .collect(Collectors.joining("\n"));
                say("error", "CompilationError", trace.lines().findFirst().orElse("not Java"), trace);
                return false;
            }
            if (event.exception() != null) {
                failed(event.exception());
                return false;
            }
            boolean isValue = event.snippet().kind() == Snippet.Kind.EXPRESSION
                    || event.snippet().subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
            if (last && isValue && event.value() != null && !source.strip().endsWith(";")) {
                say("result", event.value());
            }
        }
        return true;
    }

    private void failed(JShellException exception) {
        if (stopped) {
            return;
        }
        String name = exception instanceof EvalException thrown
                ? thrown.getExceptionClassName() : exception.getClass().getSimpleName();
        String message = String.valueOf(exception.getMessage());
        String trace = Arrays.stream(exception.getStackTrace())
                .map(frame -> "\n    at " + frame).collect(Collectors.joining("", name + ": " + message, ""));
        say("error", name, message, trace);
    }

    private synchronized void say(String word, String... texts) {
        wire.print(word);
        for (String text : texts) {
            wire.print(' ');
            wire.print(Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8)));
        }
        wire.print('\n');
        wire.flush();
    }

    private PrintStream printer(String word) {
        return new PrintStream(new OutputStream() {
            @Override
            public void write(int one) {
                write(new byte[] {(byte) one}, 0, 1);
            }

            @Override
            public void write(byte[] bytes, int from, int length) {
                byte[] piece = Arrays.copyOfRange(bytes, from, from + length);
                synchronized (JavaShell.this) {
                    wire.print(word + ' ' + Base64.getEncoder().encodeToString(piece) + '\n');
                    wire.flush();
                }
            }
        }, false, StandardCharsets.UTF_8);
    }
}
