package org.etpipeline.core.grammar

/**
 * What a model can say: the bytes that each token adds to a text; null for a special token, which is never allowed
 * within an answer. One that adds nothing is not allowed either: it could come forever.
 *
 * Their tree is built once, here; so keep it for as long as the model is loaded.
 */
class Vocabulary(val tokens: List<ByteArray?>) {
    internal val tree = TokenTree(tokens)

    /** Whether there is a token for each byte alone. */
    internal val bytes = BooleanArray(256).also { found ->
        for (token in tokens) if (token?.size == 1) found[token[0].toInt() and 0xFF] = true
    }
}

/**
 * The tokens as a tree over their bytes, in flat arrays.
 *
 * Nodes are numbered as they are met from the root (0) with a node before those below it, and tokens are sorted alike:
 * so what lies below a node is one stretch of nodes and of tokens.
 */
internal class TokenTree(tokens: List<ByteArray?>) {
    private val sorted: IntArray
    private var byteOf = ByteArray(1)
    private var depthOf = ShortArray(1)
    private var endOf = IntArray(1)
    private var firstOf = IntArray(1)
    private var nodes = 1

    /** Levels below the root: the length of the longest token. */
    val depth: Int

    init {
        sorted = sort(tokens)
        depth = sorted.maxOfOrNull { bytesOf(tokens, it).size } ?: 0
        require(depth <= Short.MAX_VALUE) { "a token of $depth bytes" }
        val path = IntArray(depth + 1)
        var last = ByteArray(0)
        sorted.forEachIndexed { index, id ->
            val bytes = bytesOf(tokens, id)
            val shared = shared(last, bytes)
            for (level in shared + 1..last.size) endOf[path[level]] = nodes
            for (level in shared until bytes.size) path[level + 1] = newNode(bytes[level], level + 1, index)
            last = bytes
        }
        for (level in 0..last.size) endOf[path[level]] = nodes
        trim(sorted.size)
    }

    fun byte(node: Int): Int = byteOf[node].toInt() and 0xFF

    fun depth(node: Int): Int = depthOf[node].toInt()

    /** The node after all that lie below this one. */
    fun end(node: Int): Int = endOf[node]

    /** Calls for each token that ends at a node. */
    inline fun forTokens(node: Int, action: (Int) -> Unit) {
        for (index in first(node) until first(node + 1)) action(token(index))
    }

    fun first(node: Int): Int = firstOf[node]

    fun token(index: Int): Int = sorted[index]

    private fun newNode(byte: Byte, depth: Int, firstToken: Int): Int {
        if (nodes == byteOf.size) resize(nodes * 2)
        byteOf[nodes] = byte
        depthOf[nodes] = depth.toShort()
        firstOf[nodes] = firstToken
        return nodes++
    }

    private fun resize(size: Int) {
        byteOf = byteOf.copyOf(size)
        depthOf = depthOf.copyOf(size)
        endOf = endOf.copyOf(size)
        firstOf = firstOf.copyOf(size)
    }

    private fun trim(tokens: Int) {
        resize(nodes + 1)
        firstOf[nodes] = tokens
    }
}

private const val BYTES_IN_KEY = 5
private const val BITS_OF_ID = 63 - 8 * BYTES_IN_KEY

private fun bytesOf(tokens: List<ByteArray?>, id: Int): ByteArray = checkNotNull(tokens[id])

/**
 * The ids of tokens in the order of their bytes.
 *
 * Most of it is decided by numbers of their first bytes: to compare hundreds of thousands of arrays takes a phone
 * seconds.
 */
private fun sort(tokens: List<ByteArray?>): IntArray {
    require(tokens.size < 1 shl BITS_OF_ID) { "${tokens.size} tokens" }
    val ids = tokens.indices.filter { tokens[it]?.isEmpty() == false }
    val keys = LongArray(ids.size) { firstBytes(bytesOf(tokens, ids[it])) shl BITS_OF_ID or ids[it].toLong() }
    keys.sort()
    val sorted = IntArray(keys.size) { (keys[it] and (1L shl BITS_OF_ID) - 1).toInt() }
    var start = 0
    for (end in 1..keys.size) {
        if (end < keys.size && keys[end] shr BITS_OF_ID == keys[start] shr BITS_OF_ID) continue
        if (end - start > 1) {
            val alike = sorted.slice(start until end)
                .sortedWith { a, b -> compare(bytesOf(tokens, a), bytesOf(tokens, b)) }
            alike.forEachIndexed { index, id -> sorted[start + index] = id }
        }
        start = end
    }
    return sorted
}

private fun firstBytes(bytes: ByteArray): Long =
    (0 until BYTES_IN_KEY).fold(0L) { key, at -> key shl 8 or (bytes.getOrElse(at) { 0 }.toLong() and 0xFF) }

private fun compare(a: ByteArray, b: ByteArray): Int {
    val shared = shared(a, b)
    if (shared == a.size || shared == b.size) return a.size - b.size
    return (a[shared].toInt() and 0xFF) - (b[shared].toInt() and 0xFF)
}

/** How many bytes they begin with in common. */
private fun shared(a: ByteArray, b: ByteArray): Int {
    val most = minOf(a.size, b.size)
    for (index in 0 until most) if (a[index] != b[index]) return index
    return most
}
