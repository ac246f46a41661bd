package org.etpipeline.demo.models

import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.security.MessageDigest
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.etpipeline.core.Manifest
import org.etpipeline.core.ZipSource
import org.junit.Assume.assumeTrue

const val PROGRAM = "xnnpack.pte"
const val TOKENIZER = "tokenizer.json"

/** The bundle that the tests were given, file by file, to be imported whole or spoilt. */
class TestBundle private constructor(val files: Map<String, ByteArray>) {
    val manifest: String get() = files.getValue(Manifest.FILE_NAME).decodeToString()

    fun with(name: String, content: ByteArray) = TestBundle(files + (name to content))

    fun without(name: String) = TestBundle(files - name)

    /** Changes a file and has the manifest say so. */
    fun consistent(name: String, content: ByteArray): TestBundle =
        with(name, content)
            .edited("files.$name.size", content.size.toString())
            .edited("files.$name.sha256", "\"${sha256(content)}\"")

    /** Replaces the value at a path of the manifest, such as `programs.0.soc`; null takes it out. */
    fun edited(path: String, value: String?): TestBundle {
        val keys = Regex("""files\.(.+)\.(\w+)""").matchEntire(path)?.let { listOf("files") + it.groupValues.drop(1) }
            ?: path.split('.')
        val tree = edit(Json.parseToJsonElement(manifest), keys, value?.let(Json::parseToJsonElement))
        return with(Manifest.FILE_NAME, tree.toString().encodeToByteArray())
    }

    /** The manifest's `files` with one more. */
    fun filesWith(name: String, info: String): String {
        val listed = Json.parseToJsonElement(manifest).jsonObject.getValue("files").jsonObject
        return JsonObject(listed + (name to Json.parseToJsonElement(info))).toString()
    }

    fun zipped(order: List<String> = files.keys.toList()): ByteArray {
        val bytes = ByteArrayOutputStream()
        ZipOutputStream(bytes).use { zip ->
            zip.setLevel(1)
            for (name in order) {
                zip.putNextEntry(ZipEntry(name))
                zip.write(files.getValue(name))
                zip.closeEntry()
            }
        }
        return bytes.toByteArray()
    }

    fun source(): ZipSource = zipSource(zipped())

    fun writeTo(folder: File): File {
        for ((name, content) in files) File(folder, name).apply { parentFile?.mkdirs() }.writeBytes(content)
        return folder
    }

    private fun edit(element: JsonElement, keys: List<String>, value: JsonElement?): JsonElement {
        val (key, rest) = keys.first() to keys.drop(1)
        if (element is JsonArray) {
            val index = key.toInt()
            return JsonArray(element.jsonArray.mapIndexed { i, child -> if (i == index) edit(child, rest, value) else child })
        }
        val fields = element.jsonObject
        val new = if (rest.isEmpty()) value else edit(fields.getValue(key), rest, value)
        return JsonObject(if (new == null) fields - key else fields + (key to new))
    }

    companion object {
        /** The manifest first, as et_pipeline packs it. */
        val whole: TestBundle by lazy {
            val property = System.getProperty("et.bundle")
            assumeTrue("no bundle was given", property != null)
            val folder = File(checkNotNull(property))
            val names = folder.walk().filter { it.isFile }.map { it.relativeTo(folder).invariantSeparatorsPath }
            TestBundle(names.sortedBy { it != Manifest.FILE_NAME }.associateWith { File(folder, it).readBytes() })
        }

        /** A bundle of these files and nothing else. */
        fun of(vararg files: Pair<String, ByteArray>) = TestBundle(files.toMap())
    }
}

fun zipSource(bytes: ByteArray): ZipSource = ZipSource("bundle.zip", bytes.size.toLong()) { ByteArrayInputStream(bytes) }

internal fun sha256(content: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }
