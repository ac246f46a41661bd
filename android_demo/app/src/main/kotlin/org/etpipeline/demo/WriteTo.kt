package org.etpipeline.demo

import android.content.ContentResolver
import android.net.Uri
import java.io.IOException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.withContext
import org.etpipeline.core.Problem

/** Writes a text to where the user has chosen, over what was there; tells what went wrong, if anything did. */
suspend fun Services.writeTo(resolver: ContentResolver, place: Uri, text: String): Problem? = try {
    withContext(io) {
        val stream = resolver.openOutputStream(place, "wt") ?: throw IOException("no file")
        stream.use { it.write(text.toByteArray()) }
    }
    null
} catch (error: IOException) {
    Problem.Storage(error.message ?: "")
} catch (error: RuntimeException) { // a documents provider is foreign code
    if (error is CancellationException) throw error
    Problem.Storage(error.message ?: error.javaClass.simpleName)
}
