package org.etpipeline.core.grammar

// Of the years 1000 to 2999: no calendar refuses them. The 29th of February in leap years only.
private const val YEAR = "[12][0-9]{3}"
private const val LEAP_YEAR = "([12][0-9](0[48]|[2468][048]|[13579][26])|(12|16|20|24|28)00)"
private const val DAY =
    "($YEAR-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|" +
        "02-(0[1-9]|1[0-9]|2[0-8]))|$LEAP_YEAR-02-29)"
private const val TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])"
private const val LABEL = "[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?"
private const val NAME = "[A-Za-z0-9_]{1,20}"

/** What strings of a `format` look like: not all that it takes, but nothing else. */
internal val FORMATS: Map<String, Pattern> by lazy {
    mapOf(
        "date" to DAY,
        "time" to TIME,
        "date-time" to "${DAY}T$TIME",
        "email" to "$NAME([.+-]$NAME){0,2}@($LABEL\\.){1,3}[a-z]{2,10}",
        "uuid" to "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    ).mapValues { (_, pattern) -> readRegex(pattern) }
}
