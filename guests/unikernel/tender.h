/* What the stand-ins for Solo5's programs share: the image's manifest, and taps. */
#ifndef TENDER_H
#define TENDER_H

#include <stdbool.h>
#include <stddef.h>

enum { MAX_DEVICES = 8, DEVICE_NAME_BYTES = 68, ABI_BYTES = 16 };
enum { EXIT_SETUP = 1 };

struct device {
	char name[DEVICE_NAME_BYTES];
	bool is_net;
	int descriptor; /* -1 until it is attached */
};

struct manifest {
	char abi[ABI_BYTES]; /* "spt" or "hvt" */
	struct device devices[MAX_DEVICES];
	int device_count;
};

/* manifest.c: returns NULL, or what is wrong with the image. */
const char *read_manifest(const char *image, struct manifest *manifest);

/* attach.c: return a descriptor, or -1 with errno set. */
int attach_tap(const char *name, int *mtu);
int attach_block(const char *path, long long *size);

/* elftool.c */
int run_elftool(int count, char **arguments);

#endif
