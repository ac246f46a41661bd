package org.etpipeline.demo.models

import android.content.ContentResolver
import android.database.Cursor
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import android.provider.OpenableColumns
import java.io.FileNotFoundException
import java.io.InputStream
import org.etpipeline.core.BundleException
import org.etpipeline.core.BundleSource
import org.etpipeline.core.Manifest
import org.etpipeline.core.Problem
import org.etpipeline.core.ZipSource

/** Deeper than any bundle; a provider can make up folders without end. */
private const val MAX_DEPTH = 8

/** A file that the user picked. */
class PickedFile(val name: String, val size: Long?, val open: () -> InputStream)

/** Asks the file's provider for name and size, so not for the main thread. */
fun pickedFile(resolver: ContentResolver, uri: Uri): PickedFile {
    val columns = arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
    val (name, size) = resolver.query(uri, columns, null, null, null)?.use { cursor ->
        if (!cursor.moveToFirst()) return@use null
        cursor.getString(0) to if (cursor.isNull(1)) null else cursor.getLong(1).takeIf { it > 0 }
    } ?: (null to null)
    return PickedFile(name ?: uri.lastPathSegment.orEmpty(), size) { resolver.open(uri) }
}

/** The zip that the user picked. Not for the main thread. */
fun zipSource(resolver: ContentResolver, uri: Uri): BundleSource =
    pickedFile(resolver, uri).let { ZipSource(it.name, it.size, it.open) }

/** The folder that the user picked, with its subfolders. Lists it at once, so not for the main thread. */
fun treeSource(resolver: ContentResolver, tree: Uri): BundleSource = TreeSource(resolver, tree)

private class TreeSource(private val resolver: ContentResolver, private val tree: Uri) : BundleSource {
    private class Entry(val path: String, val uri: Uri, val size: Long?)

    private val root = DocumentsContract.getTreeDocumentId(tree)
    override val name: String = displayName()

    /** The manifest first: with it the store refuses a wrong file at its first byte too many. */
    private val files = buildList { list(root, "", 1) }.sortedBy { it.path != Manifest.FILE_NAME }
    override val totalBytes: Long? = files.sumOf { it.size ?: 0 }.takeIf { files.none { file -> file.size == null } }

    override fun forEachFile(visit: (name: String, content: InputStream) -> Unit) {
        for (file in files) resolver.open(file.uri).use { visit(file.path, it) }
    }

    private fun displayName(): String {
        val uri = DocumentsContract.buildDocumentUriUsingTree(tree, root)
        val name = resolver.query(uri, arrayOf(Document.COLUMN_DISPLAY_NAME), null, null, null)?.use { cursor ->
            if (cursor.moveToFirst()) cursor.getString(0) else null
        }
        return name ?: root.substringAfterLast('/').substringAfterLast(':')
    }

    private fun MutableList<Entry>.list(folder: String, prefix: String, depth: Int) {
        val folders = mutableListOf<Pair<String, String>>()
        query(folder).use {
            while (it.moveToNext() && size <= Manifest.MAX_FILES + 1) { // one too many is enough for the store to refuse
                val id = it.getString(0)
                val path = prefix + it.getString(1)
                if (it.getString(2) == Document.MIME_TYPE_DIR) {
                    folders += id to path
                } else {
                    val uri = DocumentsContract.buildDocumentUriUsingTree(tree, id)
                    add(Entry(path, uri, if (it.isNull(3)) null else it.getLong(3)))
                }
            }
        }
        // Looked for before the subfolders: the user may have picked a folder with all of their photos.
        if (none { it.path == Manifest.FILE_NAME }) throw BundleException(Problem.NoManifest)
        for ((id, path) in folders) {
            if (depth == MAX_DEPTH) throw BundleException(Problem.UnexpectedFile(path))
            list(id, "$path/", depth + 1)
        }
    }

    private fun query(folder: String): Cursor {
        val columns = arrayOf(
            Document.COLUMN_DOCUMENT_ID,
            Document.COLUMN_DISPLAY_NAME,
            Document.COLUMN_MIME_TYPE,
            Document.COLUMN_SIZE,
        )
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, folder)
        return resolver.query(children, columns, null, null, null) ?: throw FileNotFoundException(name)
    }
}

private fun ContentResolver.open(uri: Uri): InputStream = openInputStream(uri) ?: throw FileNotFoundException(uri.toString())
