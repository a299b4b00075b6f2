/* The stand-in for Solo5's tenders, with exactly their command line:

       solo5-spt --mem=MB --net:NAME=TAP --net-mac:NAME=MAC [--block:NAME=FILE] -- IMAGE ARGUMENTS

   and the program that the mock hypervisor runs, `jitsu-guest`, which has two liberties more: its tap may be a descriptor
   (--net:NAME=@FD) and its image may be `-`, one network device named `service`. Which of them it is, its name says. */
#include "guest.h"
#include "tender.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/timerfd.h>

enum { DEFAULT_MEMORY_MB = 512, MAX_MEMORY_MB = 1 << 20 };

struct guest guest = {.tap = -1, .mtu = 1500};

static const char *program;
static struct manifest manifest;
static int memory_mb = DEFAULT_MEMORY_MB;
static bool is_solo5, has_mac;

static void usage(void) {
	fprintf(stderr,
	        "usage: %s [ OPTIONS ] [ -- ] IMAGE [ ARGUMENTS ]\n"
	        "  --mem=MB                  memory of the guest (512)\n"
	        "  --net:NAME=TAP            attach a tap, which exists and is up, as network NAME\n"
	        "  --net-mac:NAME=MAC        the MAC address of network NAME\n"
	        "  --block:NAME=FILE         attach a file as block device NAME\n"
	        "This is the stand-in of the tests; guests/README.md describes the ARGUMENTS.\n",
	        program);
	exit(EXIT_SETUP);
}

static void fail(const char *what, const char *reason) {
	fprintf(stderr, "%s: %s: %s\n", program, what, reason);
	exit(EXIT_SETUP);
}

static struct device *device_of(const char *name, size_t length, bool is_net) {
	for (int n = 0; n < manifest.device_count; n++) {
		struct device *each = &manifest.devices[n];
		if (each->is_net == is_net && strlen(each->name) == length && !strncmp(each->name, name, length))
			return each;
	}
	fprintf(stderr, "%s: the manifest of the image declares no %s device '%.*s'\n", program, is_net ? "network" : "block",
	        (int)length, name);
	return NULL;
}

static bool attach_net(struct device *device, const char *tap) {
	int mtu = 0;
	if (*tap == '@' && is_solo5) { /* the real tender cannot do it, so this one must not seem to */
		fprintf(stderr, "%s: cannot attach %s: a tap is attached by its name\n", program, tap);
		return false;
	}
	device->descriptor = attach_tap(tap, &mtu);
	if (device->descriptor < 0) {
		fprintf(stderr, "%s: cannot attach the interface %s: %s\n", program, tap, strerror(errno));
		return false;
	}
	if (guest.tap < 0) { /* the guest speaks on its first network; others stay silent */
		guest.tap = device->descriptor;
		guest.mtu = mtu;
	}
	return true;
}

static bool take_option(const char *option) {
	const char *name = strchr(option, ':'), *value = strchr(option, '=');
	char rest;
	if (!strncmp(option, "--mem=", 6)) {
		if (sscanf(option + 6, "%d%c", &memory_mb, &rest) != 1 || memory_mb < 1 || memory_mb > MAX_MEMORY_MB)
			fail(option, "this is not a number of megabytes");
		return true;
	}
	if (!name || !value || name > value)
		return false;
	size_t kind = (size_t)(name++ - option), length = (size_t)(value++ - name);
	struct device *device;
	long long size;
	if (kind == 5 && !strncmp(option, "--net", kind))
		return (device = device_of(name, length, true)) && attach_net(device, value);
	if (kind == 9 && !strncmp(option, "--net-mac", kind)) {
		if (!device_of(name, length, true))
			return false;
		return has_mac = read_mac(value, guest.mac);
	}
	if (kind == 7 && !strncmp(option, "--block", kind)) {
		if (!(device = device_of(name, length, false)))
			return false;
		if ((device->descriptor = attach_block(value, &size)) >= 0)
			return true;
		fprintf(stderr, "%s: cannot attach the file %s: %s\n", program, value, strerror(errno));
	}
	return false;
}

static void load(const char *image) {
	if (!is_solo5 && !strcmp(image, "-")) {
		manifest = (struct manifest){.abi = "spt", .device_count = 1, .devices = {{"service", true, -1}}};
		return;
	}
	const char *fault = read_manifest(image, &manifest);
	if (fault)
		fail(image, fault);
	const char *expected = strstr(program, "hvt") ? "hvt" : "spt";
	if (strcmp(manifest.abi, expected)) {
		fprintf(stderr, "%s: %s: this image is for solo5-%s\n", program, image, manifest.abi);
		exit(EXIT_SETUP);
	}
}

static void require_devices(void) {
	bool all = true;
	for (int n = 0; n < manifest.device_count; n++)
		if (manifest.devices[n].descriptor < 0) {
			fprintf(stderr, "%s: the device '%s' is declared but not attached\n", program, manifest.devices[n].name);
			all = false;
		}
	if (!all)
		exit(EXIT_SETUP);
	if (guest.tap < 0)
		fail("this guest", "it needs a network");
}

static bool watch(int epoll, int descriptor) {
	struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
	return !epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event);
}

static void prepare(void) {
	guest.memory_bytes = (size_t)memory_mb << 20;
	guest.memory = mmap(NULL, guest.memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (guest.memory == MAP_FAILED)
		fail("memory of the guest", strerror(errno));
	guest.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	guest.epoll = epoll_create1(EPOLL_CLOEXEC);
	guest.timer_epoll = epoll_create1(EPOLL_CLOEXEC);
	if (guest.timer < 0 || guest.epoll < 0 || guest.timer_epoll < 0 || !watch(guest.timer_epoll, guest.timer) ||
	    !watch(guest.epoll, guest.timer) || !watch(guest.epoll, guest.tap))
		fail("timer", strerror(errno));
	if (!has_mac) {
		if (getrandom(guest.mac, MAC_BYTES, 0) != MAC_BYTES)
			fail("MAC address", strerror(errno));
		guest.mac[0] = (uint8_t)((guest.mac[0] & 0xfe) | 2); /* an individual address that is locally administered */
	}
}

int main(int count, char **arguments) {
	guest.started = microseconds();
	program = strrchr(arguments[0], '/');
	program = program ? program + 1 : arguments[0];
	if (!strcmp(program, "solo5-elftool"))
		return run_elftool(count, arguments);
	is_solo5 = !strncmp(program, "solo5-", 6);
	int at = 1, image = 1;
	while (image < count && arguments[image][0] == '-' && arguments[image][1]) {
		bool is_end = !strcmp(arguments[image], "--");
		if (!is_end && !strcmp(arguments[image], "--help"))
			usage();
		image++;
		if (is_end)
			break;
	}
	if (image >= count) {
		fprintf(stderr, "%s: no image is given\n", program);
		usage();
	}
	load(arguments[image]); /* first, because the other options are about devices that it declares */
	for (; at < image && strcmp(arguments[at], "--"); at++)
		if (!take_option(arguments[at])) {
			fprintf(stderr, "%s: '%s' is not a valid option\n", program, arguments[at]);
			usage();
		}
	require_devices();
	prepare();
	signal(SIGPIPE, SIG_IGN);
	say("%s: stand-in of the tests, %d MB, image %s", program, memory_mb, arguments[image]);
	bool is_understood = read_options(count - image - 1, arguments + image + 1);
	if (!enter_sandbox())
		fail("sandbox", strerror(errno));
	if (!is_understood)
		finish(EXIT_USAGE);
	run_guest();
}
