/* Taps and files, attached before the sandbox closes. */
#include "tender.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR_BYTES = 512, ETHERNET_MTU = 1500 };

/* Fill in the MTU of an interface that is up; returns 0, or -1 with errno set. */
static int look_at(const char *name, int *mtu) {
	struct ifreq request = {0};
	int any_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), done = -1;
	if (any_socket < 0)
		return -1;
	memcpy(request.ifr_name, name, strlen(name));
	if (ioctl(any_socket, SIOCGIFFLAGS, &request)) {
		if (errno == ENODEV)
			errno = ENOENT;
	} else if (!(request.ifr_flags & (IFF_UP | IFF_RUNNING)))
		errno = ENETDOWN;
	else if (!ioctl(any_socket, SIOCGIFMTU, &request)) {
		*mtu = request.ifr_mtu;
		done = 0;
	}
	int fault = errno;
	close(any_socket);
	errno = fault;
	return done;
}

/* A tap that this process has inherited: @FD. */
static int inherited(const char *number, int *mtu) {
	struct ifreq request = {0};
	char *end;
	long descriptor = strtol(number, &end, 10);
	if (end == number || *end || descriptor < 0 || descriptor > INT_MAX) {
		errno = EINVAL;
		return -1;
	}
	if (ioctl((int)descriptor, TUNGETIFF, &request) || fcntl((int)descriptor, F_SETFL, O_NONBLOCK))
		return -1;
	*mtu = ETHERNET_MTU;
	look_at(request.ifr_name, mtu);
	return (int)descriptor;
}

int attach_tap(const char *name, int *mtu) {
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	if (*name == '@')
		return inherited(name + 1, mtu);
	if (strlen(name) >= IFNAMSIZ) {
		errno = ENAMETOOLONG;
		return -1;
	}
	/* TUNSETIFF would make an interface that does not exist, so that is looked at first. */
	if (look_at(name, mtu))
		return -1;
	int descriptor = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (descriptor < 0)
		return -1;
	memcpy(request.ifr_name, name, strlen(name));
	if (ioctl(descriptor, TUNSETIFF, &request)) {
		int fault = errno;
		close(descriptor);
		errno = fault;
		return -1;
	}
	return descriptor;
}

int attach_block(const char *path, long long *size) {
	struct stat found;
	int descriptor = open(path, O_RDWR | O_CLOEXEC);
	if (descriptor < 0)
		return -1;
	if (fstat(descriptor, &found) || found.st_size < SECTOR_BYTES || found.st_size % SECTOR_BYTES) {
		close(descriptor);
		errno = EINVAL;
		return -1;
	}
	*size = found.st_size;
	return descriptor;
}
