package org.etpipeline.demo.benchmark

import android.app.Activity
import android.app.Instrumentation
import android.os.Bundle
import kotlinx.coroutines.runBlocking
import org.etpipeline.core.BenchmarkPlan
import org.etpipeline.core.BenchmarkReport
import org.etpipeline.core.BundleException
import org.etpipeline.core.EngineException
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.Services
import org.etpipeline.demo.text

/**
 * The benchmark without the screen, for a computer at the other end of adb (`et-bundle bench --phone`):
 * `am instrument -w -e prompt_tokens 128 -e decode_tokens 64 -e rounds 5 [-e sha256 …] org.etpipeline.demo/.benchmark.BenchmarkInstrumentation`
 *
 * `sha256` chooses the model that has a program with this hash; without it the selected model is measured. The result's
 * `report` is the report on one line; if there is none, `error` is the sentence that says why.
 */
class BenchmarkInstrumentation : Instrumentation() {
    private lateinit var arguments: Bundle

    override fun onCreate(arguments: Bundle?) {
        super.onCreate(arguments)
        this.arguments = arguments ?: Bundle()
        start()
    }

    override fun onStart() {
        super.onStart()
        val app = targetContext.applicationContext as DemoApp
        val result = Bundle()
        val code = try {
            val report = runBlocking { run(app.services, arguments) }
            // Line breaks end an instrumentation result; in JSON they are nothing but layout.
            result.putString("report", report.toJson().lineSequence().joinToString("") { it.trim() })
            Activity.RESULT_OK
        } catch (error: EngineException) {
            result.putString("error", error.problem.text(app.resources))
            Activity.RESULT_CANCELED
        } catch (error: BundleException) {
            result.putString("error", error.problem.text(app.resources))
            Activity.RESULT_CANCELED
        } catch (error: IllegalArgumentException) {
            result.putString("error", error.message)
            Activity.RESULT_CANCELED
        }
        finish(code, result)
    }
}

/** Selects the model that [arguments] name, and measures it as they say. */
suspend fun run(services: Services, arguments: Bundle): BenchmarkReport {
    services.startup.run() // the app may never have been opened
    arguments.getString("sha256")?.let { wanted ->
        val found = services.store.list().find { bundle -> bundle.manifest?.files.orEmpty().values.any { it.sha256 == wanted } }
        requireNotNull(found) { "This model is not on the phone: give it to the app with 'et-bundle push'." }
        services.models.select(found.id)
    }
    fun number(name: String, usual: Int): Int {
        val text = arguments.getString(name) ?: return usual
        return requireNotNull(text.toIntOrNull()) { "$name must be a number, and is '$text'." }
    }
    val usual = BenchmarkPlan()
    val plan = BenchmarkPlan(
        number("prompt_tokens", usual.promptTokens),
        number("decode_tokens", usual.decodeTokens),
        number("rounds", usual.rounds),
    )
    return measure(services, plan)
}
