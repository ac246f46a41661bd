package org.etpipeline.core

/** Phones report less memory than is printed on their box: the system keeps some for itself before Android starts. */
private const val REPORTED_SHARE = 0.88

/** A process that takes more of the phone's memory is ended by the system before long. */
private const val LARGEST_SHARE = 0.75

/** Whether a model fits into a phone's memory. */
enum class Fit {
    FITS,

    /** It can be loaded, but the system will have to end other apps for it, or this one. */
    TIGHT,
    TOO_LARGE,
}

/**
 * Whether a model fits, before it is loaded: a process that takes too much is killed without a word.
 *
 * @param totalRam bytes of memory as the system reports them.
 * @param freeRam bytes that are available now.
 */
fun memoryFit(memory: Memory, totalRam: Long, freeRam: Long): Fit = when {
    totalRam < memory.minDeviceRamBytes * REPORTED_SHARE -> Fit.TOO_LARGE
    memory.peakBytes > totalRam * LARGEST_SHARE -> Fit.TOO_LARGE
    memory.peakBytes > freeRam -> Fit.TIGHT
    else -> Fit.FITS
}

/**
 * Refuses a model that is too large for the phone, see [memoryFit].
 *
 * @throws BundleException [Problem.NotEnoughMemory].
 */
fun requireMemory(memory: Memory, totalRam: Long, freeRam: Long) {
    if (memoryFit(memory, totalRam, freeRam) == Fit.TOO_LARGE) {
        val needed = maxOf(memory.minDeviceRamBytes, memory.peakBytes)
        throw BundleException(Problem.NotEnoughMemory(needed, totalRam, freeRam))
    }
}
