// Preloaded on arm64: bionic's code reads its stack protector's value from a slot behind the thread pointer. There
// glibc puts the first library's thread-local data, so these bytes keep the place, and nothing changes them.
__attribute__((aligned(16))) __thread char canary[64] __attribute__((tls_model("initial-exec")));
char *canary_place(void) { return canary; }
