// Android's liblog on standard error. ANDROID_LOG_LEVEL: 2 verbose, 3 debug, 4 info, 5 warning (default), 6 error.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int lowest_shown(void) {
  const char *level = getenv("ANDROID_LOG_LEVEL");
  return level ? atoi(level) : 5;
}

int __android_log_write(int priority, const char *tag, const char *message) {
  if (priority < lowest_shown()) return 0;
  return fprintf(stderr, "%c/%s: %s\n", "??VDIWEF"[priority & 7], tag ? tag : "", message);
}

int __android_log_vprint(int priority, const char *tag, const char *format, va_list arguments) {
  char message[4096];
  vsnprintf(message, sizeof message, format, arguments);
  return __android_log_write(priority, tag, message);
}

int __android_log_print(int priority, const char *tag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int written = __android_log_vprint(priority, tag, format, arguments);
  va_end(arguments);
  return written;
}

void __android_log_assert(const char *condition, const char *tag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  __android_log_vprint(7, tag, format ? format : condition, arguments);
  va_end(arguments);
  abort();
}
