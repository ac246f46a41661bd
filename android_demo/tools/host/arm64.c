// What differs between bionic and glibc on arm64 only, where an emulator runs both; libc.c includes it.
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

// pthread_mutex_t has 40 bytes in bionic and 48 in glibc, which uses 40 of them.
int BIONIC(pthread_mutex_init)(void *mutex, const pthread_mutexattr_t *attributes) {
  pthread_mutex_t made;
  int failed = pthread_mutex_init(&made, attributes);
  memcpy(mutex, &made, 40);
  return failed;
}

// The emulator passes the host's own files on; which kernels are chosen follows what they say of the processor.
static const char *emulated(const char *path) {
  const char *processor = getenv("ANDROIDHOST_CPUINFO"), *one = getenv("ANDROIDHOST_ONE_CPU");
  if (path && processor && !strcmp(path, "/proc/cpuinfo")) return processor;
  if (path && one && (!strcmp(path, "/sys/devices/system/cpu/possible") || !strcmp(path, "/sys/devices/system/cpu/present")))
    return one;  // a file that holds 0
  return path;
}
int BIONIC(open)(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  int mode = va_arg(arguments, int);
  va_end(arguments);
  return open(emulated(path), flags, mode);
}
int BIONIC(__open_2)(const char *path, int flags) { return open(emulated(path), flags); }
FILE *BIONIC(fopen)(const char *path, const char *mode) { return fopen(emulated(path), mode); }
