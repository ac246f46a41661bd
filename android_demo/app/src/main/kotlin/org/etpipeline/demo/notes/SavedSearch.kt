package org.etpipeline.demo.notes

import android.os.Bundle
import org.etpipeline.core.search.Chunk
import org.etpipeline.core.search.Hit
import org.etpipeline.demo.tasks.toBundle
import org.etpipeline.demo.tasks.toTaskRun

private const val QUERY = "query"
private const val RUN = "run"
private const val NOTES = "notes"
private const val STARTS = "starts"
private const val TEXTS = "texts"
private const val SCORES = "scores"

/** What the next process shows: the query, and what was asked, with its answer. What was found is found again. */
internal fun NoteSearchState.toBundle() = Bundle().apply {
    putString(QUERY, query)
    putBundle(RUN, run?.takeIf { it.problem == null }?.toBundle())
    putStringArray(NOTES, sources.map { it.note }.toTypedArray())
    putIntArray(STARTS, sources.map { it.chunk.start }.toIntArray())
    putStringArray(TEXTS, sources.map { it.chunk.text }.toTypedArray())
    putFloatArray(SCORES, sources.map { it.score }.toFloatArray())
}

/** What [toBundle] wrote. */
internal fun Bundle.toNoteSearchState(): NoteSearchState {
    val starts = getIntArray(STARTS) ?: return NoteSearchState()
    val notes = getStringArray(NOTES).orEmpty()
    val texts = getStringArray(TEXTS).orEmpty()
    val scores = getFloatArray(SCORES) ?: return NoteSearchState()
    return NoteSearchState(
        query = getString(QUERY).orEmpty(),
        run = getBundle(RUN)?.toTaskRun(),
        sources = notes.indices.map { Hit(notes[it], Chunk(starts[it], texts[it]), scores[it]) },
    )
}
