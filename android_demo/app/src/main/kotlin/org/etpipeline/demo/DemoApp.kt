package org.etpipeline.demo

import android.app.Application
import android.content.Context
import android.content.SharedPreferences
import java.io.File
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.launch
import org.etpipeline.core.BatteryMeter
import org.etpipeline.core.BundleStore
import org.etpipeline.core.Conversation
import org.etpipeline.core.JsonFolder
import org.etpipeline.core.Note
import org.etpipeline.demo.engine.EmbedderHolder
import org.etpipeline.demo.engine.ModelHolder
import org.etpipeline.demo.notes.NoteIndex
import org.etpipeline.demo.notes.NoteSearch
import org.etpipeline.demo.phone.AndroidPhone
import org.etpipeline.demo.phone.Phone
import org.etpipeline.demo.sharing.OtherApps
import org.etpipeline.engine.AdapterStore

/** What the screens need, made once per process. */
class Services(
    val store: BundleStore,
    val conversations: JsonFolder<Conversation>,
    val notes: JsonFolder<Note>,
    val phone: Phone,
    val preferences: SharedPreferences,
    val models: ModelHolder,
    val adapters: AdapterStore,
    val startup: Startup,
    val embedders: EmbedderHolder,
    val search: NoteSearch,
    val battery: BatteryMeter = BatteryMeter(), // of all answers in chats
    val otherApps: OtherApps = OtherApps(preferences, models),
    val io: CoroutineDispatcher = Dispatchers.IO,
)

/** The process. Tests replace [createServices]. */
open class DemoApp : Application() {
    open val services: Services by lazy { createServices() }
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)

    override fun onCreate() {
        super.onCreate()
        takeIn()
    }

    /** Takes in the models that came with the app, and those that `et-bundle push` has put beside it. */
    fun takeIn() {
        scope.launch(services.io) { services.startup.run() }
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        services.models.onTrimMemory(level)
        services.embedders.onTrimMemory(level)
    }

    protected open fun createServices(): Services {
        val store = BundleStore(File(filesDir, "bundles"))
        val phone = AndroidPhone(this)
        val preferences = getSharedPreferences("app", Context.MODE_PRIVATE)
        val models = ModelHolder(store, phone, preferences, File(noBackupFilesDir, "adapter-slots"))
        val embedders = EmbedderHolder(store, phone)
        return Services(
            store = store,
            conversations = JsonFolder(File(filesDir, "chats"), Conversation.serializer()),
            notes = JsonFolder(File(filesDir, "notes"), Note.serializer()),
            phone = phone,
            preferences = preferences,
            models = models,
            adapters = AdapterStore(File(filesDir, "adapters")),
            startup = Startup(this, store, models, preferences),
            embedders = embedders,
            search = NoteSearch(NoteIndex(this), embedders),
        )
    }
}
