package org.etpipeline.demo

import android.content.res.Resources
import android.icu.text.MeasureFormat
import android.icu.util.Measure
import android.icu.util.MeasureUnit
import android.icu.text.NumberFormat
import org.etpipeline.core.Problem

/** What is wrong and what to do about it, in one sentence of the user's language. */
fun Problem.text(resources: Resources): String = when (this) {
    Problem.NoManifest -> resources.getString(R.string.problem_no_manifest)
    is Problem.BadManifest -> resources.getString(R.string.problem_bad_manifest, detail)
    is Problem.NewerManifest -> resources.getString(R.string.problem_newer_manifest, found, supported)
    is Problem.NoChatModel -> resources.getString(R.string.problem_no_chat_model, name)
    Problem.NoModel -> resources.getString(R.string.problem_no_model)
    is Problem.BundleGone -> resources.getString(R.string.problem_bundle_gone, id)
    is Problem.MissingFile -> resources.getString(R.string.problem_missing_file, file)
    is Problem.UnexpectedFile -> resources.getString(R.string.problem_unexpected_file, file)
    is Problem.WrongSize -> resources.getString(R.string.problem_wrong_size, file, found, expected)
    is Problem.WrongHash -> resources.getString(R.string.problem_wrong_hash, file)
    is Problem.UnsafePath -> resources.getString(R.string.problem_unsafe_path, file)
    is Problem.DuplicateFile -> resources.getString(R.string.problem_duplicate_file, file)
    Problem.DamagedZip -> resources.getString(R.string.problem_damaged_zip)
    is Problem.EncryptedZip -> resources.getString(R.string.problem_encrypted_zip, file)
    is Problem.ZipBomb -> resources.getString(R.string.problem_zip_bomb, file)
    is Problem.DamagedAdapter -> resources.getString(R.string.problem_damaged_adapter, file)
    is Problem.ForeignAdapter -> resources.getString(R.string.problem_foreign_adapter, file)
    is Problem.DuplicateAdapter -> resources.getString(R.string.problem_duplicate_adapter, name)
    is Problem.NoAdapter -> resources.getString(R.string.problem_no_adapter, name, model)
    is Problem.NotEnoughSpace ->
        resources.getString(R.string.problem_not_enough_space, resources.fileSize(needed), resources.fileSize(free))
    is Problem.NotEnoughMemory -> resources.getString(
        R.string.problem_not_enough_memory,
        resources.fileSize(needed),
        resources.fileSize(total),
        resources.fileSize(free),
    )
    is Problem.NoProgram -> if (socs.isEmpty()) {
        resources.getString(R.string.problem_no_program, backends.joinToString(), phone)
    } else {
        resources.getString(R.string.problem_no_program_chips, backends.joinToString(), phone, socs.joinToString())
    }
    is Problem.OtherSignature ->
        resources.getString(R.string.problem_other_signature, files.joinToString(), signatures.joinToString())
    is Problem.RuntimeTooOld -> resources.getString(R.string.problem_runtime_too_old, needed, found)
    is Problem.QairtTooOld -> if (found == null) {
        resources.getString(R.string.problem_qairt_missing, needed)
    } else {
        resources.getString(R.string.problem_qairt_too_old, needed, found)
    }
    Problem.Interrupted -> resources.getString(R.string.problem_interrupted)
    is Problem.Storage -> resources.getString(R.string.problem_storage, detail)
    is Problem.BadProgram -> resources.getString(R.string.problem_bad_program, detail)
    is Problem.BadTokenizer -> resources.getString(R.string.problem_bad_tokenizer, detail)
    Problem.PromptTooLong -> resources.getString(R.string.problem_prompt_too_long)
    is Problem.EngineFailed -> resources.getString(R.string.problem_engine_failed, detail)
    Problem.EngineClosed -> resources.getString(R.string.problem_engine_closed)
    Problem.BrokenText -> resources.getString(R.string.problem_broken_text)
    // These are read in another app, so they say whose model it is.
    Problem.AskingIsOff -> resources.getString(
        R.string.problem_asking_is_off,
        resources.getString(R.string.sharing_switch),
        resources.getString(R.string.app_name),
    )
    Problem.AskingNotAllowed ->
        resources.getString(R.string.problem_asking_not_allowed, resources.getString(R.string.app_name))
    is Problem.TooManyQuestions -> resources.getString(R.string.problem_too_many_questions, waiting)
    is Problem.QuestionTooLong -> resources.getString(R.string.problem_question_too_long, found, limit)
    is Problem.BadQuestion -> resources.getString(R.string.problem_bad_question, detail)
    is Problem.NewerQuestion ->
        resources.getString(R.string.problem_newer_question, found, resources.getString(R.string.app_name), supported)
}

/**
 * [bytes] with the unit that suits it, such as "1.6 MB", in decimal units as the system's own settings show them.
 *
 * `Formatter.formatShortFileSize` says the same, but wants a Context where only resources are at hand.
 */
fun Resources.fileSize(bytes: Long): String {
    val (unit, divisor) = when {
        bytes >= 999_500_000 -> MeasureUnit.GIGABYTE to 1e9
        bytes >= 999_500 -> MeasureUnit.MEGABYTE to 1e6
        bytes >= 1000 -> MeasureUnit.KILOBYTE to 1e3
        else -> MeasureUnit.BYTE to 1.0
    }
    val value = bytes / divisor
    val locale = configuration.locales[0]
    val numbers = NumberFormat.getInstance(locale).apply { maximumFractionDigits = if (value < 100 && divisor > 1e3) 1 else 0 }
    return MeasureFormat.getInstance(locale, MeasureFormat.FormatWidth.SHORT, numbers).formatMeasures(Measure(value, unit))
}
