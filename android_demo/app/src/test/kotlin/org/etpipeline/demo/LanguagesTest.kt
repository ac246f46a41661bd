package org.etpipeline.demo

import android.app.Application
import android.content.Context
import android.content.res.Configuration
import android.content.res.Resources
import android.icu.text.PluralRules
import android.icu.util.ULocale
import androidx.test.core.app.ApplicationProvider
import java.io.File
import java.util.Locale
import javax.xml.parsers.DocumentBuilderFactory
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.w3c.dom.Element

/** The languages that the app offers in the phone's settings. */
val LANGUAGES: List<String> by lazy {
    read(File("src/main/res/xml/locales.xml")).elements().map { it.getAttribute("android:name") }
}

/** The app's resources in one of [LANGUAGES]. */
fun resourcesIn(language: String): Resources {
    val context = ApplicationProvider.getApplicationContext<Context>()
    val configuration = Configuration(context.resources.configuration)
    configuration.setLocale(Locale.forLanguageTag(language))
    return context.createConfigurationContext(configuration).resources
}

/** What the app says is there in every language, whole and with the forms that its grammar has. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = Application::class)
class LanguagesTest {
    private val english = stringsIn("en")

    @Test
    fun `what the settings offer is what there is`() {
        val folders = File(RES).list().orEmpty().filter { File(RES, "$it/strings.xml").exists() }
        assertEquals(folders.map { it.removePrefix("values-").replace("values", "en") }.toSet(), LANGUAGES.toSet())
        assertEquals(6, LANGUAGES.size)
    }

    @Test
    fun `all languages have the same strings in the same files`() = inEachLanguage { _, strings ->
        assertEquals(english.mapValues { it.value.file }, strings.mapValues { it.value.file })
    }

    @Test
    fun `all languages have the same arguments`() = inEachLanguage { language, strings ->
        for ((name, string) in strings) {
            assertEquals("$language $name", english.getValue(name).arguments(), string.arguments())
        }
    }

    @Test
    fun `plurals have the forms of their language, and those that stand for many numbers say which`() {
        for (language in LANGUAGES) {
            val rules = PluralRules.forLocale(ULocale.forLanguageTag(language))
            for ((name, string) in stringsIn(language).filterValues { it.forms.keys != setOf("") }) {
                assertEquals("$language $name", rules.keywords, string.forms.keys)
                for ((form, text) in string.forms) {
                    val isOneNumber = rules.getUniqueKeywordValue(form) != PluralRules.NO_UNIQUE_VALUE
                    val saysNumber = Regex("""%1\$[ds]""").containsMatchIn(text)
                    assertTrue("$language $name $form", isOneNumber || form == "one" || saysNumber)
                }
            }
        }
    }

    @Test
    fun `each number finds its form`() {
        for (language in LANGUAGES) {
            val resources = resourcesIn(language)
            for (number in 0..120) {
                val seconds = resources.getQuantityString(R.plurals.thought_seconds, number, number)
                val stats = resources.getQuantityString(R.plurals.chat_stats, number, "$number", "41", "7")
                for (text in listOf(seconds, stats)) assertTrue("$language $text", '%' !in text && text.isNotBlank())
            }
        }
        val numbers = listOf(0, 1, 2, 3, 11, 100)
        val arabic = numbers.map { resourcesIn("ar").getQuantityString(R.plurals.models_tokens, it, it) }
        assertEquals(listOf("بلا رموز", "رمز واحد", "رمزان", "٣ رموز", "١١ رمزًا", "١٠٠ رمز"), arabic)
    }

    @Test
    fun `Arabic and Japanese are written in their own letters`() {
        val japanese = Regex("""[\p{IsHiragana}\p{IsKatakana}\p{IsHan}]""")
        val scripts = mapOf("ar" to Regex("""\p{IsArabic}"""), "ja" to japanese)
        for ((language, letters) in scripts) {
            val foreign = stringsIn(language).filterValues { string ->
                string.forms.values.any { text -> !letters.containsMatchIn(text) }
            }
            // Names, signs and units alone.
            val models = """models_(backend|program|name|import_progress|check)\w*"""
            val names = Regex("""$models|settings_(top|min)_[pk]|benchmark_\w+|separator""")
            assertEquals(language, emptySet<String>(), foreign.keys.filterNot { names.matches(it) }.toSet())
        }
    }

    @Test
    fun `what an Arabic sentence names keeps its own direction`() {
        val argument = Regex("""(\\u2068)?%\d[$]s(\\u2069)?""")
        val named = stringsIn("ar").filterKeys { it.startsWith("problem_") }.flatMap { (name, string) ->
            string.forms.values.flatMap { text -> argument.findAll(text).map { name to it.value } }
        }
        assertTrue("$named", named.size > 30)
        val loose = named.filterNot { (_, text) -> text.startsWith("\\u2068") && text.endsWith("\\u2069") }
        assertEquals(emptyList<Pair<String, String>>(), loose)
    }

    private fun inEachLanguage(check: (language: String, strings: Map<String, Translated>) -> Unit) =
        (LANGUAGES - "en").forEach { check(it, stringsIn(it)) }
}

/** @property forms the text for each form of a plural; that of a plain string for "". */
private class Translated(val file: String, val forms: Map<String, String>) {
    fun arguments(): Set<String> = forms.values.flatMap { text -> ARGUMENT.findAll(text).map { it.value } }.toSet()

    private companion object {
        val ARGUMENT = Regex("""%(\d+\$)?[-+,.\d]*[a-zA-Z%]""")
    }
}

private const val RES = "src/main/res"

private fun stringsIn(language: String): Map<String, Translated> {
    val folder = File(RES, if (language == "en") "values" else "values-$language")
    val all = folder.listFiles { file -> file.name.startsWith("strings") }.orEmpty().flatMap { file ->
        read(file).elements().filter { it.getAttribute("translatable") != "false" }.map { element ->
            val forms = element.elements().associate { it.getAttribute("quantity") to it.textContent }
            element.getAttribute("name") to Translated(file.name, forms.ifEmpty { mapOf("" to element.textContent) })
        }
    }
    assertEquals("$language: a key twice", all.size, all.map { it.first }.toSet().size)
    return all.toMap()
}

private fun read(file: File): Element =
    DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(file).documentElement

private fun Element.elements(): List<Element> =
    List(childNodes.length) { childNodes.item(it) }.filterIsInstance<Element>()
