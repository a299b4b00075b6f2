/* The page that the guest serves. */
#include "guest.h"

#include <stdio.h>
#include <string.h>

/* Write the head of the response and the beginning of its body into `room`, and return how much that is. `total` is the
   length of the whole response; what comes after `room` is filled up with dots by tcp.c. */
size_t page_head(char *room, size_t size, size_t *total) {
	char text[512];
	double up = (double)(guest.now - guest.started) / 1e6;
	int length = snprintf(text, sizeof text,
	                      "<!doctype html>\n<title>%s</title>\n<p>This is the VM <b>%s</b>. It booted in %.1f ms and has been"
	                      " up for %.1f s.</p>\n",
	                      guest.options.name, guest.options.name, (double)guest.boot_us / 1e3, up);
	size_t body = (size_t)length;
	if ((size_t)guest.options.page_bytes > body)
		body = (size_t)guest.options.page_bytes;
	int head = snprintf(room, size,
	                    "HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %zu\r\n"
	                    "Connection: close\r\n\r\n%s",
	                    body, text);
	*total = (size_t)head - (size_t)length + body;
	return (size_t)head;
}
