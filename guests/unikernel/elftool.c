/* The stand-in for solo5-elftool: query-manifest and query-abi, with the JSON that Solo5 0.9 prints. */
#include "tender.h"

#include <stdio.h>
#include <string.h>

static void print_manifest(const struct manifest *manifest) {
	/* Every real manifest begins with a reserved entry that the tool leaves out, so the comma stands after all but the
	   last of the others. */
	printf("{\n  \"type\": \"solo5.manifest\",\n  \"version\": 1,\n  \"devices\": [\n");
	for (int n = 0; n < manifest->device_count; n++)
		printf("    { \"name\": \"%s\", \"type\": \"%s\" }%s\n", manifest->devices[n].name,
		       manifest->devices[n].is_net ? "NET_BASIC" : "BLOCK_BASIC", n + 1 < manifest->device_count ? "," : "");
	printf("  ]\n}\n");
}

int run_elftool(int count, char **arguments) {
	struct manifest manifest;
	bool asks_manifest = count == 3 && !strcmp(arguments[1], "query-manifest");
	if (!asks_manifest && (count != 3 || strcmp(arguments[1], "query-abi"))) {
		fprintf(stderr, "usage: solo5-elftool query-manifest IMAGE\n       solo5-elftool query-abi IMAGE\n");
		return EXIT_SETUP;
	}
	const char *fault = read_manifest(arguments[2], &manifest);
	if (fault) {
		fprintf(stderr, "solo5-elftool: %s: %s\n", arguments[2], fault);
		return EXIT_SETUP;
	}
	if (asks_manifest)
		print_manifest(&manifest);
	else
		printf("{\n  \"type\": \"solo5.abi\",\n  \"target\": \"%s\",\n  \"version\": 2\n}\n", manifest.abi);
	return 0;
}
