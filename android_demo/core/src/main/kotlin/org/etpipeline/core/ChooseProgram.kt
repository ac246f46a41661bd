package org.etpipeline.core

/**
 * What decides which program of a bundle runs on a phone.
 *
 * @property name of the phone, for messages.
 * @property soc its chip, such as `SM8650`; may be empty.
 * @property backends delegates that are built into the app, such as `xnnpack`.
 * @property runtime version of the ExecuTorch runtime in the app, such as `1.3.1`.
 * @property qairt version of Qualcomm's QAIRT libraries in the app, such as `v2.49.40`; null if it has none.
 */
data class PhoneFacts(
    val name: String,
    val soc: String,
    val backends: List<String>,
    val runtime: String,
    val qairt: String? = null,
)

/**
 * The program to load: the first that fits, and one made for this very chip before one for any chip.
 *
 * @throws BundleException [Problem.NoProgram]; or, if it is only that, [Problem.OtherSignature], [Problem.RuntimeTooOld]
 *   or [Problem.QairtTooOld].
 */
fun chooseProgram(manifest: Manifest, phone: PhoneFacts): Program {
    val known = manifest.programs.filter { program -> phone.backends.any { it.equals(program.backend, ignoreCase = true) } }
    val fitting = known.filter { program ->
        program.soc.isEmpty() || program.soc.any { it.equals(phone.soc.trim(), ignoreCase = true) }
    }
    if (fitting.isEmpty()) {
        val backends = manifest.programs.map { it.backend }.distinct()
        val socs = known.flatMap { it.soc }.distinct()
        throw BundleException(Problem.NoProgram(backends, socs, phone.name))
    }
    val callable = fitting.filter { it.signature in manifest.callable }
    if (callable.isEmpty()) {
        throw BundleException(Problem.OtherSignature(fitting.map { it.file }, fitting.map { it.signature }.distinct()))
    }
    val runnable = callable.filter { compareVersions(it.minRuntime, phone.runtime) <= 0 }
    if (runnable.isEmpty()) {
        val needed = callable.map { it.minRuntime }.minWith(::compareVersions)
        throw BundleException(Problem.RuntimeTooOld(needed, phone.runtime))
    }
    val chosen = runnable.filter { program -> program.qairt == null || phone.qairt.isAtLeast(program.qairt) }
    if (chosen.isEmpty()) {
        val needed = runnable.mapNotNull { it.qairt }.minWith(::compareVersions)
        throw BundleException(Problem.QairtTooOld(needed, phone.qairt))
    }
    return chosen.firstOrNull { it.soc.isNotEmpty() } ?: chosen.first()
}

private fun String?.isAtLeast(needed: String): Boolean = this != null && compareVersions(needed, this) <= 0

/** Compares versions such as `1.10.0` by their numbers; what is no number (`v`, `+cpu`, `rc1`) does not count. */
internal fun compareVersions(one: String, other: String): Int {
    val left = numbers(one)
    val right = numbers(other)
    return (0 until maxOf(left.size, right.size))
        .map { (left.getOrElse(it) { 0 }).compareTo(right.getOrElse(it) { 0 }) }
        .firstOrNull { it != 0 } ?: 0
}

private fun numbers(version: String): List<Int> =
    version.removePrefix("v").substringBefore('+').substringBefore('-').split('.')
        .map { part -> part.takeWhile { it in '0'..'9' }.take(9).toIntOrNull() ?: 0 }
