/* Images for the stand-ins. A real image is an ELF file with its manifest in a note; one of these is a text:

       jitsu stand-in image
       abi spt
       net service
       block storage
*/
#include "tender.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = 128 };

static bool add_line(const char *line, struct manifest *manifest) {
	char what[8], name[DEVICE_NAME_BYTES], rest;
	if (sscanf(line, "%7s %67[A-Za-z0-9] %c", what, name, &rest) != 2)
		return false;
	if (!strcmp(what, "abi")) {
		snprintf(manifest->abi, sizeof manifest->abi, "%.15s", name);
		return true;
	}
	bool is_net = !strcmp(what, "net");
	if ((!is_net && strcmp(what, "block")) || manifest->device_count == MAX_DEVICES)
		return false;
	struct device *added = &manifest->devices[manifest->device_count++];
	snprintf(added->name, sizeof added->name, "%s", name);
	added->is_net = is_net;
	added->descriptor = -1;
	return true;
}

const char *read_manifest(const char *image, struct manifest *manifest) {
	char line[LINE_BYTES];
	memset(manifest, 0, sizeof *manifest);
	FILE *file = fopen(image, "r");
	if (!file)
		return strerror(errno);
	const char *fault = NULL;
	if (!fgets(line, sizeof line, file) || strcmp(line, "jitsu stand-in image\n"))
		fault = "it is not an image of this stand-in (guests/README.md says how one looks)";
	while (!fault && fgets(line, sizeof line, file))
		if (!add_line(line, manifest))
			fault = "its manifest is not valid";
	fclose(file);
	return fault;
}
