package org.etpipeline.demo.notes

import android.content.ContentValues
import android.content.Context
import android.database.sqlite.SQLiteDatabase
import android.database.sqlite.SQLiteOpenHelper
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.etpipeline.core.search.Chunk
import org.etpipeline.core.search.IndexedChunk

/**
 * The vectors of the notes' chunks, in a database of the app's own.
 *
 * Of each note there are all chunks or none, whenever the app is killed. What is here can be made again from the notes: a
 * damaged file is deleted by the system's own handler, and it is no part of backups. All calls block.
 *
 * @param folder where its file lies.
 */
class NoteIndex(context: Context, folder: File = context.noBackupFilesDir) :
    SQLiteOpenHelper(context, File(folder, "notes.db").path, null, 1) {

    override fun onConfigure(db: SQLiteDatabase) = db.setForeignKeyConstraintsEnabled(true)

    override fun onCreate(db: SQLiteDatabase) {
        db.execSQL("CREATE TABLE note (id TEXT PRIMARY KEY, model TEXT NOT NULL, hash TEXT NOT NULL)")
        db.execSQL(
            "CREATE TABLE chunk (note TEXT NOT NULL REFERENCES note (id) ON DELETE CASCADE, " +
                "start INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL)",
        )
        db.execSQL("CREATE INDEX chunk_note ON chunk (note)")
    }

    override fun onUpgrade(db: SQLiteDatabase, oldVersion: Int, newVersion: Int) = Unit // there is one version

    /** By the ids of the notes that are here as [model] embeds them: the hash of the text that was embedded. */
    fun hashes(model: String): Map<String, String> =
        readableDatabase.rawQuery("SELECT id, hash FROM note WHERE model = ?", arrayOf(model)).use { rows ->
            buildMap { while (rows.moveToNext()) put(rows.getString(0), rows.getString(1)) }
        }

    /** Puts a note in place of what was here of it. */
    fun put(model: String, note: String, hash: String, chunks: List<IndexedChunk>) = inTransaction {
        delete("note", "id = ?", arrayOf(note))
        val row = ContentValues().apply {
            put("id", note)
            put("model", model)
            put("hash", hash)
        }
        insertOrThrow("note", null, row)
        for (indexed in chunks) insertOrThrow("chunk", null, indexed.row(note))
    }

    /** Takes out every note that is not one of [notes]. */
    fun keepOnly(notes: Set<String>) = inTransaction {
        val gone = rawQuery("SELECT id FROM note", null).use { rows ->
            buildList { while (rows.moveToNext()) if (rows.getString(0) !in notes) add(rows.getString(0)) }
        }
        for (id in gone) delete("note", "id = ?", arrayOf(id))
    }

    /** All chunks as [model] embeds them. */
    fun chunks(model: String): List<IndexedChunk> {
        val query = "SELECT note, start, text, vector FROM chunk JOIN note ON note.id = chunk.note WHERE model = ?"
        return readableDatabase.rawQuery(query, arrayOf(model)).use { rows ->
            buildList {
                while (rows.moveToNext()) {
                    val chunk = Chunk(rows.getInt(1), rows.getString(2))
                    add(IndexedChunk(rows.getString(0), chunk, floats(rows.getBlob(3))))
                }
            }
        }
    }

    private fun inTransaction(block: SQLiteDatabase.() -> Unit) {
        val database = writableDatabase
        database.beginTransaction()
        try {
            database.block()
            database.setTransactionSuccessful()
        } finally {
            database.endTransaction()
        }
    }
}

private fun IndexedChunk.row(note: String) = ContentValues().apply {
    put("note", note)
    put("start", chunk.start)
    put("text", chunk.text)
    put("vector", bytes(vector))
}

private fun bytes(vector: FloatArray): ByteArray =
    ByteBuffer.allocate(vector.size * Float.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)
        .also { it.asFloatBuffer().put(vector) }.array()

private fun floats(bytes: ByteArray): FloatArray =
    FloatArray(bytes.size / Float.SIZE_BYTES)
        .also { ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(it) }
