package org.etpipeline.core.grammar

internal val COMMA = Expression.spaced(Pattern.text(","))

/** The name of a property as it stands before its value. */
internal fun nameOf(name: Pattern): Expression =
    Expression.spaced(Pattern.Sequence(listOf(Pattern.text("\""), name.inJson(), Pattern.text("\":"))))

/** All of [items], with commas between them. */
internal fun commaList(items: List<Expression>): Expression =
    Expression.Sequence(items.flatMapIndexed { index, item -> if (index == 0) listOf(item) else listOf(COMMA, item) })

/** One of the members that an object may have. */
internal class Member(val body: Expression, val isRequired: Boolean)

/** The inside of an object: [members] in their order, those left out that may be, then any number of [extra]. */
internal fun objectInside(members: List<Member>, extra: Expression?): Expression {
    val more = extra?.let { Expression.Repeat(Expression.sequence(COMMA, it), 0, null) } ?: Expression.EMPTY
    var later = more // what may follow when something has been written already
    var first = extra?.let { Expression.choice(listOf(Expression.EMPTY, Expression.sequence(it, more))) } ?: more
    for (member in members.asReversed()) {
        val asFirst = Expression.sequence(member.body, later)
        val asLater = Expression.sequence(COMMA, member.body, later)
        first = if (member.isRequired) asFirst else Expression.choice(listOf(asFirst, first))
        later = if (member.isRequired) asLater else Expression.choice(listOf(asLater, later))
    }
    return first
}

/** The inside of an array: items as [first] says one by one, then any of [other]; [min] to [max] of them all. */
internal fun arrayInside(first: List<Expression>, other: Expression?, min: Int, max: Int?): Expression {
    if (max == 0 || first.isEmpty() && other == null) return Expression.EMPTY
    val listed = first.take(max ?: first.size)
    val before = maxOf(1, listed.size)
    var later = other?.let {
        Expression.Repeat(Expression.sequence(COMMA, it), maxOf(0, min - before), max?.minus(before))
    } ?: Expression.EMPTY
    for (index in listed.lastIndex downTo 1) {
        val more = Expression.sequence(COMMA, listed[index], later)
        later = if (index < min) more else Expression.choice(listOf(Expression.EMPTY, more))
    }
    val some = Expression.sequence(listed.firstOrNull() ?: checkNotNull(other), later)
    return if (min > 0) some else Expression.choice(listOf(Expression.EMPTY, some))
}
