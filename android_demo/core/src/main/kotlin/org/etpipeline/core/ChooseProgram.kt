package org.etpipeline.core

/**
 * What decides which program of a bundle runs on a phone.
 *
 * @property name of the phone, for messages.
 * @property soc its chip, such as `SM8650`; may be empty.
 * @property backends delegates that are built into the app, such as `xnnpack`.
 * @property runtime version of the ExecuTorch runtime in the app, such as `1.3.1`.
 */
data class PhoneFacts(val name: String, val soc: String, val backends: List<String>, val runtime: String)

/**
 * The program to load: the first that fits, and one made for this very chip before one for any chip.
 *
 * @throws BundleException [Problem.NoProgram], or [Problem.RuntimeTooOld] if an update of the app would help.
 */
fun chooseProgram(manifest: Manifest, phone: PhoneFacts): Program {
    val fitting = manifest.programs.filter { program ->
        phone.backends.any { it.equals(program.backend, ignoreCase = true) } &&
            (program.soc.isEmpty() || program.soc.any { it.equals(phone.soc.trim(), ignoreCase = true) })
    }
    if (fitting.isEmpty()) {
        val backends = manifest.programs.map { it.backend }.distinct()
        val socs = manifest.programs.flatMap { it.soc }.distinct()
        throw BundleException(Problem.NoProgram(backends, socs, phone.name))
    }
    val runnable = fitting.filter { compareVersions(it.minRuntime, phone.runtime) <= 0 }
    if (runnable.isEmpty()) {
        val needed = fitting.map { it.minRuntime }.minWith(::compareVersions)
        throw BundleException(Problem.RuntimeTooOld(needed, phone.runtime))
    }
    return runnable.firstOrNull { it.soc.isNotEmpty() } ?: runnable.first()
}

/** Compares versions such as `1.10.0` by their numbers; what is no number (`+cpu`, `rc1`) does not count. */
internal fun compareVersions(one: String, other: String): Int {
    val left = numbers(one)
    val right = numbers(other)
    return (0 until maxOf(left.size, right.size))
        .map { (left.getOrElse(it) { 0 }).compareTo(right.getOrElse(it) { 0 }) }
        .firstOrNull { it != 0 } ?: 0
}

private fun numbers(version: String): List<Int> =
    version.substringBefore('+').substringBefore('-').split('.')
        .map { part -> part.takeWhile { it in '0'..'9' }.take(9).toIntOrNull() ?: 0 }
