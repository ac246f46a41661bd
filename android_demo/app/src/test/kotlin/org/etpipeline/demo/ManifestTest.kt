package org.etpipeline.demo

import java.io.File
import javax.xml.parsers.DocumentBuilderFactory
import org.etpipeline.engine.AskContract
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Test
import org.w3c.dom.Element

private const val ANDROID = "http://schemas.android.com/apk/res/android"
private const val APP = "org.etpipeline.demo"

/** The manifest as it gets into the APK, with what the libraries add to it. */
class ManifestTest {
    private val merged = read(File(checkNotNull(System.getProperty("et.manifest")) { "run with tools/build.py" }))
    private val source = read(File("src/main/AndroidManifest.xml"))
    private val components =
        listOf("activity", "activity-alias", "service", "receiver", "provider").flatMap { merged.all(it) }

    @Test
    fun `nothing is asked for, above all not the internet`() {
        val own = "$APP.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION" // the app grants it to itself
        val kinds = listOf("uses-permission", "uses-permission-sdk-23", "uses-permission-sdk-m")
        assertEquals(listOf(own), kinds.flatMap { merged.all(it) }.map { it["name"] })
    }

    @Test
    fun `the user is asked before another app may ask the model`() {
        val levels = merged.all("permission").associate { it["name"] to it["protectionLevel"] }
        val own = "$APP.DYNAMIC_RECEIVER_NOT_EXPORTED_PERMISSION"
        assertEquals(mapOf(AskContract.permissionOf(APP) to "dangerous", own to "signature"), levels)
        val permission = merged.all("permission").single { it["protectionLevel"] == "dangerous" }
        assertEquals("@string/sharing_permission", permission["label"])
        assertEquals("@string/sharing_permission_about", permission["description"])
        val service = merged.all("service").single { it["exported"] == "true" }
        assertEquals(AskContract.ACTION, service.all("action").single()["name"])
    }

    @Test
    fun `other apps reach the one activity, with a permission the model, and nothing else`() {
        // Until Android 12 a component with a filter was exported unless it said otherwise.
        val exported = components.filter { it["exported"] != "false" }
        val profiles = "androidx.profileinstaller.ProfileInstallReceiver"
        assertEquals(
            mapOf(
                "$APP.MainActivity" to "",
                "$APP.sharing.AskService" to AskContract.permissionOf(APP),
                profiles to "android.permission.DUMP", // only the shell has it
            ),
            exported.associate { it["name"] to it["permission"] },
        )
    }

    @Test
    fun `the activity is opened from the launcher, for shared text and for selected text`() {
        val activity = merged.all("activity").single { it["name"] == "$APP.MainActivity" }
        assertEquals("true", activity["exported"])
        val filters = activity.all("intent-filter").associate { filter ->
            val rest = listOf("category", "data").flatMap { filter.all(it) }
            filter.all("action").single()["name"].substringAfterLast('.') to rest.map { it["name"] + it["mimeType"] }.toSet()
        }
        val text = setOf("android.intent.category.DEFAULT", "text/plain")
        val expected = mapOf("MAIN" to setOf("android.intent.category.LAUNCHER"), "SEND" to text, "PROCESS_TEXT" to text)
        assertEquals(expected, filters)
    }

    @Test
    fun `a computer can start the benchmark`() {
        val instrumentation = merged.all("instrumentation").single()
        assertEquals("$APP.benchmark.BenchmarkInstrumentation", instrumentation["name"])
        assertEquals(APP, instrumentation["targetPackage"])
        assertNotNull(Class.forName(instrumentation["name"], false, javaClass.classLoader))
    }

    @Test
    fun `backups, languages and the application class are those of the source`() {
        val kept = listOf("allowBackup", "dataExtractionRules", "fullBackupContent", "localeConfig", "name", "supportsRtl")
        fun Element.settings() = kept.associateWith { all("application").single()[it] }
        assertEquals(source.settings(), merged.settings())
        assertEquals("true", source.settings()["allowBackup"])
        assertEquals("@xml/backup_rules", source.settings()["dataExtractionRules"])
        assertEquals("@xml/full_backup", source.settings()["fullBackupContent"])
    }

    private fun read(file: File): Element {
        val factory = DocumentBuilderFactory.newInstance().apply { isNamespaceAware = true }
        return factory.newDocumentBuilder().parse(file).documentElement
    }

    private fun Element.all(tag: String): List<Element> =
        getElementsByTagName(tag).run { List(length) { item(it) as Element } }

    private operator fun Element.get(attribute: String): String = getAttributeNS(ANDROID, attribute)
}
