// A JVM agent (-agentpath:libandroidhost.so) that binds the unmodified Android libraries before any Java code runs.
//
// libandroidroot.so is empty and needs libexecutorch.so, which makes that one the root of the symbol search, as it is on
// Android for System.loadLibrary("executorch"): libfbjni must find libexecutorch's static C++ runtime, or its
// std::current_exception() is null and every native error aborts the process. RTLD_DEEPBIND keeps the JVM's own
// libstdc++ and libgcc, which are global symbols here, out of that search.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>

int Agent_OnLoad(void *vm, char *options, void *reserved) {
  (void)vm, (void)options, (void)reserved;
  Dl_info self;
  if (!dladdr((void *)Agent_OnLoad, &self)) return 1;
  char here[PATH_MAX], root[PATH_MAX + 32];
  snprintf(here, sizeof here, "%s", self.dli_fname);
  snprintf(root, sizeof root, "%s/libandroidroot.so", dirname(here));
  if (dlopen(root, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)) return 0;
  fprintf(stderr, "androidhost: %s\n", dlerror());
  return 1;
}
