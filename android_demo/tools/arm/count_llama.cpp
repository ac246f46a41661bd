// What bench_arm.py counts of llama.cpp: MODEL START PROMPT TOKENS, as of `Run count`, on one thread with flash attention.
//
// No instruction depends on what a cache holds, so up to START it is filled with copies of what it has, doubled each time.
// What is printed frames the rest, for count.c.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

static const int TOKEN = 5, BATCH = 512;

static void require(bool done, const char *what) {
  if (done) return;
  std::fprintf(stderr, "llama.cpp does not %s\n", what);
  std::exit(3);
}

static void mark() {
  std::puts("mark");
  std::fflush(stdout);
}

// In pieces of at most a size; as llama.cpp's own benchmark does, for each piece with the last one's logits.
static void read(llama_context *context, int count, int piece) {
  std::vector<llama_token> tokens(std::min(count, piece), TOKEN);
  for (int done = 0; done < count; done += piece) {
    const int size = std::min(piece, count - done);
    require(llama_decode(context, llama_batch_get_one(tokens.data(), size)) == 0, "decode");
  }
}

static void fill(llama_context *context, int length) {
  llama_memory_t memory = llama_get_memory(context);
  int filled = std::min(length, 64);
  read(context, filled, BATCH);
  while (filled < length) {
    std::vector<uint8_t> state(llama_state_seq_get_size(context, 0));
    require(llama_state_seq_get_data(context, state.data(), state.size(), 0) == state.size(), "give its cache");
    require(llama_state_seq_set_data(context, state.data(), state.size(), 1) == state.size(), "take its cache");
    llama_memory_seq_rm(memory, 1, length - filled, -1);
    llama_memory_seq_add(memory, 1, 0, -1, filled);
    llama_memory_seq_cp(memory, 1, 0, -1, -1);
    llama_memory_seq_rm(memory, 1, -1, -1);
    filled = llama_memory_seq_pos_max(memory, 0) + 1;
  }
  require(filled == length, "fill its cache");
}

int main(int count, char **given) {
  if (count != 5) return 2;
  const int start = std::atoi(given[2]), prompt = std::atoi(given[3]), tokens = std::atoi(given[4]);
  llama_model *model = llama_model_load_from_file(given[1], llama_model_default_params());
  require(model, "load the model");
  llama_context_params settings = llama_context_default_params();
  settings.n_ctx = start + prompt + tokens + 1;
  settings.n_batch = settings.n_ubatch = BATCH;
  settings.n_threads = settings.n_threads_batch = 1;
  settings.n_seq_max = 2;
  settings.kv_unified = true;
  settings.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  llama_context *context = llama_init_from_model(model, settings);
  require(context, "make a context");
  fill(context, start);
  if (start == 0) {  // the first call allocates, and shifts what was copied
    read(context, 1, 1);
    llama_memory_clear(llama_get_memory(context), true);
  } else if (tokens) {
    read(context, 1, 1);
  }
  mark();  // the first line costs more than others
  mark();
  read(context, prompt, BATCH);
  read(context, tokens, 1);
  mark();
}
