/* The console, which is standard output, and the end of the guest. */
#include "guest.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { LINE_BYTES = 256 };

/* Write one line. A console that nobody reads any more must not end the guest, so errors are ignored. */
void say(const char *format, ...) {
	char line[LINE_BYTES];
	va_list values;
	va_start(values, format);
	int length = vsnprintf(line, sizeof line - 1, format, values);
	va_end(values);
	if (length < 0)
		return;
	if (length > LINE_BYTES - 2)
		length = LINE_BYTES - 2;
	line[length++] = '\n';
	if (write(1, line, (size_t)length) < 0)
		return;
}

/* _exit is exit_group(2), which the sandbox allows; exit(3) would flush and free first. */
void finish(int status) {
	if (status == EXIT_ABORT)
		say("guest: abort");
	else
		say("guest: exit status %d", status);
	_exit(status);
}
