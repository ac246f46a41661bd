package org.etpipeline.demo.notes

import java.security.MessageDigest
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import org.etpipeline.core.Embedder
import org.etpipeline.core.Note
import org.etpipeline.core.TextUse
import org.etpipeline.core.search.Hit
import org.etpipeline.core.search.IndexedChunk
import org.etpipeline.core.search.chunksOf
import org.etpipeline.core.search.nearest
import org.etpipeline.demo.engine.EmbedderHolder

/** Finds notes by their meaning: keeps their vectors up to date, and compares them with that of a query. */
class NoteSearch(
    private val index: NoteIndex,
    private val embedders: EmbedderHolder,
    private val io: CoroutineDispatcher = Dispatchers.IO,
) {
    private val turn = Mutex()

    /** Whether there is a model for it. */
    suspend fun isPossible(): Boolean = withContext(io) { embedders.bundle() != null }

    /**
     * The chunks of [notes] that are nearest to [query], the best first. Embeds the notes before that have changed since
     * the last time; all, after the model has. What is embedded stays so if the search is cancelled.
     *
     * @param onProgress gets how many notes were embedded, and how many there are to embed, if there are any.
     */
    suspend fun find(
        query: String,
        notes: List<Note>,
        onProgress: (done: Int, total: Int) -> Unit = { _, _ -> },
    ): List<Hit> = turn.withLock {
        withContext(io) {
            embedders.refresh()
            update(notes, onProgress)
            embedders.use { model, embedder -> nearest(embedder.embed(query, TextUse.QUERY), index.chunks(model)) }
        }
    }

    private suspend fun update(notes: List<Note>, onProgress: (done: Int, total: Int) -> Unit) {
        index.keepOnly(notes.map { it.id }.toSet())
        val known = embedders.use { model, _ -> index.hashes(model) }
        val changed = notes.filter { known[it.id] != hash(it.text) }
        changed.forEachIndexed { done, note ->
            onProgress(done, changed.size)
            // One note a time: between them the model can be freed, and the search be cancelled.
            embedders.use { model, embedder -> index.put(model, note.id, hash(note.text), embedded(note, embedder)) }
        }
    }

    private suspend fun embedded(note: Note, embedder: Embedder): List<IndexedChunk> =
        chunksOf(note.text, embedder.mostTokens(TextUse.DOCUMENT), embedder::countTokens)
            .map { IndexedChunk(note.id, it, embedder.embed(it.text, TextUse.DOCUMENT)) }
}

private fun hash(text: String): String =
    MessageDigest.getInstance("SHA-256").digest(text.toByteArray()).joinToString("") { "%02x".format(it) }
