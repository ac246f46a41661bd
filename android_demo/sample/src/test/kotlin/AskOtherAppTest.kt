import android.app.ActivityManager
import android.content.ComponentName
import android.content.Context
import android.content.Intent
import android.os.Process
import androidx.test.core.app.ApplicationProvider
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import org.etpipeline.demo.DemoApp
import org.etpipeline.demo.sharing.AskService
import org.etpipeline.engine.AskContract
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowLooper

/** The second app, compiled against the published library alone, and the first one as it is installed, model inside. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = DemoApp::class)
class AskOtherAppTest {
    private val app: DemoApp = ApplicationProvider.getApplicationContext()
    private val service = Robolectric.buildService(AskService::class.java).create()

    @Before
    fun install() {
        val memory = ActivityManager.MemoryInfo().apply {
            totalMem = 8_000_000_000
            availMem = 4_000_000_000
        }
        shadowOf(app.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).setMemoryInfo(memory)
        val binder = service.get().onBind(Intent(AskContract.ACTION))
        shadowOf(app).setComponentNameAndServiceForBindService(ComponentName(app, AskService::class.java), binder)
    }

    @After fun stop() {
        service.destroy()
    }

    private fun ask(): String {
        // Not on the main thread: it is what tells that the service is bound.
        val answer = CoroutineScope(Dispatchers.Default).async {
            askOtherApp(app, app.packageName, "What is the capital of Italy?")
        }
        while (!answer.isCompleted) {
            ShadowLooper.idleMainLooper()
            Thread.sleep(5)
        }
        return runBlocking { answer.await() }
    }

    @Test
    fun `the model of the other app answers twice`() {
        shadowOf(app).grantPermissions(0, Process.myUid(), AskContract.permissionOf(app.packageName))
        app.services.otherApps.letAsk(true)
        assertEquals("The capital of Italy is Rome. The capital of Spain is Madrid.", ask())
    }

    @Test
    fun `a refusal is a sentence`() {
        shadowOf(app).grantPermissions(0, Process.myUid(), AskContract.permissionOf(app.packageName))
        assertTrue(ask().startsWith("The model answers no other apps: switch on"))
    }
}
