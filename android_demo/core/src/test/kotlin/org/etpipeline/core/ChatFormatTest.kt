package org.etpipeline.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

/** The expected texts are what `ChatFormat` of et_pipeline/chat_template.py gives. */
class ChatFormatTest {
    private val format = ChatFormat(
        systemPrefix = "<s><sys>",
        systemToUser = "</sys><u>",
        startToUser = "<s>auto<u>",
        userToAssistant = "</u><a>",
        assistantToUser = "<end>\n<u>",
        userToPastAssistant = "</u><a> ",
        supportsSystem = true,
    )

    @Test
    fun `one question`() = assertEquals("<s>auto<u>Hello</u><a>", format.render(talk(" Hello \n")))

    @Test
    fun `one question with a system message`() =
        assertEquals("<s><sys>Be brief.</sys><u>Hi</u><a>", format.render(talk("Hi"), " Be brief. "))

    @Test
    fun `past answers have their own text before them`() =
        assertEquals("<s>auto<u>a</u><a> b<end>\n<u>c</u><a>", format.render(talk("a", " b ", "c\n")))

    @Test
    fun `several turns with a system message`() = assertEquals(
        "<s><sys>x</sys><u>a</u><a> b<end>\n<u>c</u><a> d<end>\n<u>e 👩‍👧</u><a>",
        format.render(talk("a", "\n\nb", "c", "d", "\te 👩‍👧 "), "x"),
    )

    @Test
    fun `next turn`() = assertEquals("<end>\n<u>more</u><a>", format.nextTurn("  more "))

    @Test
    fun `no template gives the plain text`() = assertEquals("abc", ChatFormat().render(talk(" a ", "b", "c")))

    @Test
    fun `a system message is left out where the model takes none, or where it is blank`() {
        assertEquals("<s>auto<u>Hi</u><a>", format.copy(supportsSystem = false).render(talk("Hi"), "x"))
        assertEquals("<s>auto<u>Hi</u><a>", format.render(talk("Hi"), " "))
    }

    @Test
    fun `the user must have the last word and turns must alternate`() {
        assertThrows(IllegalArgumentException::class.java) { format.render(emptyList()) }
        assertThrows(IllegalArgumentException::class.java) { format.render(talk("a", "b")) }
        val doubled = List(3) { Message(Role.USER, "a") }
        assertThrows(IllegalArgumentException::class.java) { format.render(doubled) }
    }
}

/** Messages of user and assistant in turn. */
internal fun talk(vararg texts: String): List<Message> =
    texts.mapIndexed { index, text -> Message(if (index % 2 == 0) Role.USER else Role.ASSISTANT, text) }
