// A plug-in of QEMU (-plugin libcount.so): how many instructions each thread of an arm64 program executed, by kind.
//
// COUNT_OUT names a file that gets a line per thread at the end: instructions, those with dot products, with products of
// matrices, loads and stores, and SIMD. Before these it gets a line that begins with "mark" for each time that a thread
// writes to standard output, with what that thread has executed so far. Threads have a counter each, because they run at
// once. What of QEMU's plug-in interface is used is declared here, as its header is in no package.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t,
    void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
        uint64_t));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define SHOWN __attribute__((visibility("default")))
SHOWN int qemu_plugin_version = 1;

enum { ALL, DOT, MATRIX, MEMORY, SIMD, KINDS };
static struct {
  uint64_t counts[KINDS];
  char apart[64];  // no two threads write to one line of the cache
} threads[256];

static void ran(unsigned thread, void *block) {
  const uint64_t *counts = block;
  for (int kind = 0; kind < KINDS; kind++) threads[thread & 255].counts[kind] += counts[kind];
}

// Arm Architecture Reference Manual, C4.1.
static void add(uint64_t *counts, uint32_t word) {
  counts[ALL]++;
  // SDOT and UDOT of vectors, and by an element
  counts[DOT] += (word & 0x9fe0fc00) == 0x0e809400 || (word & 0x9f00f400) == 0x0f00e000;
  counts[MATRIX] += (word & 0xdfe0f400) == 0x4e80a400;  // SMMLA, UMMLA, USMMLA
  counts[MEMORY] += (word & 0x0a000000) == 0x08000000;
  counts[SIMD] += (word & 0x0e000000) == 0x0e000000;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  uint64_t *counts = calloc(KINDS, sizeof *counts);
  for (size_t at = 0; at < qemu_plugin_tb_n_insns(block); at++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, at)), sizeof word);
    add(counts, word);
  }
  qemu_plugin_register_vcpu_tb_exec_cb(block, ran, 0, counts);
}

static FILE *out;

static void line(const uint64_t *counts) {
  for (int kind = 0; kind < KINDS; kind++) fprintf(out, "%" PRIu64 "%c", counts[kind], kind == KINDS - 1 ? '\n' : ' ');
}

static void called(qemu_plugin_id_t id, unsigned thread, int64_t number, uint64_t file, uint64_t b, uint64_t c,
    uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number != 64 || file != 1 || !out) return;  // write, of an arm64 Linux
  fprintf(out, "mark ");
  line(threads[thread & 255].counts);
}

static void ended(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  if (!out) return;
  for (int thread = 0; thread < 256; thread++)
    if (threads[thread].counts[ALL]) line(threads[thread].counts);
  fclose(out);
}

SHOWN int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **options) {
  (void)info, (void)count, (void)options;
  const char *name = getenv("COUNT_OUT");
  out = name ? fopen(name, "w") : NULL;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
