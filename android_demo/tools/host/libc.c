// Android's libc (bionic) on top of glibc: only what differs. host.py makes a jump to glibc of everything else
// that the libraries import, and gives each symbol here the version that they ask for.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <wchar.h>

#define BIONIC(name) bionic_##name
#include SYMBOL_VERSIONS

// Standard streams are elements of an array of 152-byte structs in bionic, of which glibc knows nothing.
char BIONIC(__sF)[3][152];
FILE *BIONIC(stdout), *BIONIC(stderr);

__attribute__((constructor)) static void set_streams(void) {
  BIONIC(stdout) = stdout;
  BIONIC(stderr) = stderr;
}

static FILE *stream(void *file) {
  if (file == BIONIC(__sF)[0]) return stdin;
  if (file == BIONIC(__sF)[1]) return stdout;
  if (file == BIONIC(__sF)[2]) return stderr;
  return file;
}

int BIONIC(fprintf)(void *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int written = vfprintf(stream(file), format, arguments);
  va_end(arguments);
  return written;
}
int BIONIC(vfprintf)(void *file, const char *format, va_list arguments) { return vfprintf(stream(file), format, arguments); }
int BIONIC(fputc)(int c, void *file) { return fputc(c, stream(file)); }
int BIONIC(fputs)(const char *text, void *file) { return fputs(text, stream(file)); }
wint_t BIONIC(fputwc)(wchar_t c, void *file) { return fputwc(c, stream(file)); }
size_t BIONIC(fwrite)(const void *data, size_t size, size_t count, void *file) { return fwrite(data, size, count, stream(file)); }
size_t BIONIC(fread)(void *data, size_t size, size_t count, void *file) { return fread(data, size, count, stream(file)); }
int BIONIC(fflush)(void *file) { return fflush(stream(file)); }
int BIONIC(fclose)(void *file) { return fclose(stream(file)); }
int BIONIC(ferror)(void *file) { return ferror(stream(file)); }
int BIONIC(getc)(void *file) { return getc(stream(file)); }
wint_t BIONIC(getwc)(void *file) { return getwc(stream(file)); }
int BIONIC(ungetc)(int c, void *file) { return ungetc(c, stream(file)); }
wint_t BIONIC(ungetwc)(wint_t c, void *file) { return ungetwc(c, stream(file)); }
int BIONIC(setvbuf)(void *file, char *buffer, int mode, size_t size) { return setvbuf(stream(file), buffer, mode, size); }

// Functions that check sizes at run time, and what is called when a check fails.
static void die(const char *function) {
  fprintf(stderr, "androidhost: %s found an overflow\n", function);
  abort();
}
size_t BIONIC(__strlen_chk)(const char *text, size_t size) {
  size_t length = strlen(text);
  if (length >= size) die("__strlen_chk");
  return length;
}
char *BIONIC(__strchr_chk)(const char *text, int c, size_t size) { (void)size; return strchr(text, c); }
char *BIONIC(__strrchr_chk)(const char *text, int c, size_t size) { (void)size; return strrchr(text, c); }
ssize_t BIONIC(__write_chk)(int file, const void *data, size_t count, size_t size) {
  if (count > size) die("__write_chk");
  return write(file, data, count);
}
void BIONIC(__assert2)(const char *file, int line, const char *function, const char *message) {
  fprintf(stderr, "%s:%d: %s: assertion \"%s\" failed\n", file, line, function, message);
  abort();
}
void BIONIC(android_set_abort_message)(const char *message) { fprintf(stderr, "abort: %s\n", message ? message : ""); }
int BIONIC(__system_property_get)(const char *name, char *value) {
  (void)name;
  *value = 0;
  return 0;
}

// sigset_t has 8 bytes in bionic and 128 in glibc.
int BIONIC(sigfillset)(unsigned long *set) {
  *set = ~0UL;
  return 0;
}
int BIONIC(pthread_sigmask)(int how, const unsigned long *set, unsigned long *old) {
  unsigned long kept;
  if (set) {
    kept = *set & ~(3UL << 31);  // glibc uses these two signals itself
    set = &kept;
  }
  return syscall(SYS_rt_sigprocmask, how, set, old, 8) ? errno : 0;
}

// With one, XNNPACK's thread pool is one thread: then instructions can be counted.
static long cpus(int name) { return getenv("ANDROIDHOST_ONE_CPU") ? 1 : sysconf(name); }

// Constants that differ.
long BIONIC(sysconf)(int name) {
  switch (name) {
    case 0x00: return sysconf(_SC_ARG_MAX);
    case 0x05: return sysconf(_SC_CHILD_MAX);
    case 0x06: return sysconf(_SC_CLK_TCK);
    case 0x0b: return sysconf(_SC_OPEN_MAX);
    case 0x27:
    case 0x28: return sysconf(_SC_PAGESIZE);
    case 0x60: return cpus(_SC_NPROCESSORS_CONF);
    case 0x61: return cpus(_SC_NPROCESSORS_ONLN);
    case 0x62: return sysconf(_SC_PHYS_PAGES);
    case 0x63: return sysconf(_SC_AVPHYS_PAGES);
  }
  fprintf(stderr, "androidhost: sysconf(0x%x) is not translated\n", name);
  errno = EINVAL;
  return -1;
}
long BIONIC(pathconf)(const char *path, int name) {
  static const int names[] = {_PC_FILESIZEBITS, _PC_LINK_MAX, _PC_MAX_CANON, _PC_MAX_INPUT,
                              _PC_NAME_MAX,     _PC_PATH_MAX, _PC_PIPE_BUF};
  if (name < 0 || name > 6) {
    errno = EINVAL;
    return -1;
  }
  return pathconf(path, names[name]);
}

// There is no Vulkan driver here: answer as a phone without one does.
void *BIONIC(dlopen)(const char *file, int mode) { return file && strstr(file, "vulkan") ? NULL : dlopen(file, mode); }

#ifdef __aarch64__
#include "arm64.c"
#endif
