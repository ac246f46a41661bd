package org.etpipeline.demo.tasks

import android.os.Bundle
import kotlinx.serialization.json.Json
import org.etpipeline.core.AnswerStats
import org.etpipeline.demo.MOST_SAVED

private const val TASK = "task"
private const val INPUT = "input"
private const val CHOICES = "choices"
private const val PHASE = "phase"
private const val ANSWER = "answer"
private const val STATS = "stats"

/** What the next process shows of this run; a problem is not worth keeping. */
internal fun TaskRun.toBundle() = Bundle().apply {
    putString(TASK, task)
    putString(INPUT, input.take(MOST_SAVED))
    putBundle(CHOICES, Bundle().apply { choices.forEach { (name, option) -> putString(name, option) } })
    putString(PHASE, phase.name)
    putString(ANSWER, answer)
    putString(STATS, stats?.let { Json.encodeToString(AnswerStats.serializer(), it) })
}

/** The run that [toBundle] wrote, if any. One that was not done then is one that was stopped. */
internal fun Bundle.toTaskRun(): TaskRun? {
    val choices = getBundle(CHOICES) ?: return null
    val run = TaskRun(
        task = getString(TASK).orEmpty(),
        input = getString(INPUT).orEmpty(),
        choices = choices.keySet().associateWith { choices.getString(it).orEmpty() },
        phase = TaskRun.Phase.valueOf(getString(PHASE).orEmpty()),
        answer = getString(ANSWER).orEmpty(),
        stats = getString(STATS)?.let { Json.decodeFromString(AnswerStats.serializer(), it) },
    )
    return if (run.isRunning) run.copy(phase = TaskRun.Phase.STOPPED) else run
}
