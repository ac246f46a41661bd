package org.etpipeline.core

/**
 * What can go wrong with a bundle or a model, as data: the app says it in the user's language, one sentence each, and
 * the sentence says what to do. Every case that is added here needs a string in each language.
 */
sealed interface Problem {
    // --- the bundle as a whole
    /** The picked folder or zip holds no manifest.json at its top. */
    data object NoManifest : Problem
    /** manifest.json is no JSON, no manifest, or a field is wrong; [detail] names the field. */
    data class BadManifest(val detail: String) : Problem
    /** The manifest was made by a newer et_pipeline than this app reads. */
    data class NewerManifest(val found: String, val supported: Int) : Problem
    /** A chat model is wanted, and the bundle turns texts into vectors: there is nobody in it to talk to. */
    data class NoChatModel(val name: String) : Problem
    /** There is no bundle that could be used. */
    data object NoModel : Problem
    /** No bundle of this id is in the store (any more). */
    data class BundleGone(val id: String) : Problem

    // --- its files
    data class MissingFile(val file: String) : Problem
    data class UnexpectedFile(val file: String) : Problem
    data class WrongSize(val file: String, val found: Long, val expected: Long) : Problem
    data class WrongHash(val file: String) : Problem
    /** A path that would leave the bundle's folder, or is not plain. */
    data class UnsafePath(val file: String) : Problem
    data class DuplicateFile(val file: String) : Problem
    /** No zip at all, or its bytes are damaged. */
    data object DamagedZip : Problem
    data class EncryptedZip(val file: String) : Problem
    /** The zip unpacks to far more than a bundle can. */
    data class ZipBomb(val file: String) : Problem

    // --- its adapters
    /** What should be an adapter of et_pipeline (`.ptd`) is none, or not whole. */
    data class DamagedAdapter(val file: String) : Problem
    /** The adapter has other tensors than the program that it was meant for. */
    data class ForeignAdapter(val file: String) : Problem
    data class DuplicateAdapter(val name: String) : Problem
    /** A chat is held with an adapter that the selected model does not have. */
    data class NoAdapter(val name: String, val model: String) : Problem

    // --- the phone
    data class NotEnoughSpace(val needed: Long, val free: Long) : Problem
    /** Loading it would need more memory than this phone has, or has free now. Bytes. */
    data class NotEnoughMemory(val needed: Long, val total: Long, val free: Long) : Problem
    /**
     * No program of the bundle fits this phone; [backends] are what the bundle offers, [socs] the chips of programs that
     * only lack the right one.
     */
    data class NoProgram(val backends: List<String>, val socs: List<String>, val phone: String) : Problem
    /** The programs [files] would fit, but they are called in a way ([signatures]) that this app does not know. */
    data class OtherSignature(val files: List<String>, val signatures: List<String>) : Problem
    data class RuntimeTooOld(val needed: String, val found: String) : Problem
    /** Qualcomm's libraries in the app are older than the program needs, or there are none ([found] is null). */
    data class QairtTooOld(val needed: String, val found: String?) : Problem
    /** The system ended the app in the middle of it. */
    data object Interrupted : Problem
    /** Reading or writing failed; [detail] is the system's word for it. */
    data class Storage(val detail: String) : Problem

    // --- the engine
    /** The runtime refuses the program; [detail] is its own short reason. */
    data class BadProgram(val detail: String) : Problem
    data class BadTokenizer(val detail: String) : Problem
    data object PromptTooLong : Problem
    data class EngineFailed(val detail: String) : Problem
    data object EngineClosed : Problem
    /** The model gave bytes that are no text, and the runtime delivers nothing after such bytes. */
    data object BrokenText : Problem

    // --- other apps that ask
    /** The user lets no other app ask. */
    data object AskingIsOff : Problem
    /** The app that asks was not granted the permission. */
    data object AskingNotAllowed : Problem
    /** As many as [waiting] questions wait already. */
    data class TooManyQuestions(val waiting: Int) : Problem
    /** What another app sent has [found] characters, and at most [limit] are taken. */
    data class QuestionTooLong(val found: Int, val limit: Int) : Problem
    /** What another app sent is no conversation; [detail] is for who made that app. */
    data class BadQuestion(val detail: String) : Problem
    /** Another app speaks version [found] of the contract, and this one up to [supported]. */
    data class NewerQuestion(val found: Int, val supported: Int) : Problem
}

/** A bundle that cannot be taken or used. */
class BundleException(val problem: Problem, cause: Throwable? = null) : Exception(problem.toString(), cause)
