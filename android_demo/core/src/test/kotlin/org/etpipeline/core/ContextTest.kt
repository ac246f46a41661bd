package org.etpipeline.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class ContextTest {
    private fun Context.feedAll() = fed(unfed.count())

    private fun Context.text() = List(tokens.size) { tokens[it] }

    @Test fun `a text that begins alike is kept up to its last token`() {
        val context = Context(16, reach = Int.MAX_VALUE)
        assertEquals(0, context.take(intArrayOf(1, 2, 3), startsOver = true))
        context.feedAll()
        assertEquals(2, context.take(intArrayOf(1, 2, 3), startsOver = true))
        assertEquals(2..2, context.unfed)
        context.feedAll()
        assertEquals(2, context.take(intArrayOf(1, 2, 9, 4), startsOver = true))
        assertEquals(listOf(1, 2, 9, 4), context.text())
    }

    @Test fun `what was not fed is not kept`() {
        val context = Context(16, reach = Int.MAX_VALUE)
        context.take(intArrayOf(1, 2), startsOver = true)
        context.fed(1)
        assertEquals(1, context.take(intArrayOf(1, 2, 3), startsOver = true))
        assertEquals(1..2, context.unfed)
    }

    @Test fun `a token that waits is fed with the next prompt`() {
        val context = Context(16, reach = 0)
        context.take(intArrayOf(1), startsOver = true)
        context.feedAll()
        context.add(2)
        context.take(intArrayOf(3), startsOver = false)
        assertEquals(1..2, context.unfed)
        assertEquals(listOf(1, 2, 3), context.text())
    }

    @Test fun `what does not fit changes nothing`() {
        val context = Context(4, reach = Int.MAX_VALUE)
        context.take(intArrayOf(1, 2, 3), startsOver = true)
        context.feedAll()
        for (startsOver in listOf(true, false)) {
            val more = if (startsOver) intArrayOf(1, 2, 3, 4, 5) else intArrayOf(4, 5)
            val error = assertThrows(EngineException::class.java) { context.take(more, startsOver) }
            assertEquals(Problem.PromptTooLong, error.problem)
            assertEquals(listOf(1, 2, 3), context.text())
            assertTrue(context.unfed.isEmpty())
        }
        assertThrows(EngineException::class.java) { context.take(intArrayOf(4), startsOver = false, room = 1) }
        context.take(intArrayOf(4), startsOver = false)
        context.feedAll()
        context.add(5)
        assertTrue(context.isFull)
    }

    @Test fun `how far back is measured from the last that was written`() {
        val context = Context(64, reach = 3)
        val text = IntArray(10) { it }
        context.take(text, startsOver = true)
        context.feedAll()
        assertEquals(7, context.take(text.copyOf(8), startsOver = true)) // 3 back of 10
        context.feedAll()
        // 8 were fed since, but of what lies behind them 10 were written.
        assertEquals(0, context.take(text.copyOf(6) + 99, startsOver = true))
        context.feedAll()
        assertEquals(6, context.take(text.copyOf(6) + 98, startsOver = true)) // from 0 on that is forgotten
    }

    @Test fun `the reach is what the manifest says of the states`() {
        val manifest = readManifest(sampleManifest())
        val program = manifest.programs.first()
        fun reach(goesBack: Boolean, vararg kinds: String) =
            reachOf(program.copy(goesBack = goesBack), manifest.memory.copy(states = kinds.associateWith { 8L }))
        assertEquals(Int.MAX_VALUE, reach(true, "keys_values"))
        assertEquals(program.prefillChunk - 1, reach(true, "keys_values", "ring"))
        assertEquals(0, reach(false, "keys_values", "recurrent"))
        assertEquals(0, reach(true)) // an older manifest
    }

    @Test fun `what the program has forgotten is fed again`() {
        val context = Context(16, reach = Int.MAX_VALUE)
        context.take(intArrayOf(1, 2, 3), startsOver = true)
        context.feedAll()
        context.forgotten()
        context.take(intArrayOf(4), startsOver = false)
        assertEquals(0..3, context.unfed)
        context.feedAll()
        context.forgotten()
        assertEquals(0, context.take(intArrayOf(1, 2, 9), startsOver = true))
    }
}
