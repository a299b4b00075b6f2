/* Echoes TCP and UDP on port 7 (RFC 862), over IPv4 and IPv6, for the guest that build.py makes. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT = 7, MAX = 256 };

static int bound(int type) {
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	int one = 1, fd = socket(AF_INET6, type, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	return bind(fd, (struct sockaddr *)&any, sizeof any) ? -1 : fd;
}

int main(void) {
	static char data[65536];
	struct pollfd fds[MAX] = {{bound(SOCK_DGRAM), POLLIN, 0}, {bound(SOCK_STREAM), POLLIN, 0}};
	int count = 2;
	if (fds[0].fd < 0 || fds[1].fd < 0 || listen(fds[1].fd, 64))
		return 1;
	pid_t child = fork(); /* whoever has started this finds that it listens */
	if (child)
		return child < 0;
	while (poll(fds, count, -1) > 0) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof peer;
		if (fds[0].revents) {
			ssize_t got = recvfrom(fds[0].fd, data, sizeof data, 0, (struct sockaddr *)&peer, &length);
			if (got >= 0)
				sendto(fds[0].fd, data, got, 0, (struct sockaddr *)&peer, length);
		}
		if (fds[1].revents && count < MAX)
			fds[count++] = (struct pollfd){accept(fds[1].fd, 0, 0), POLLIN, 0};
		for (int i = 2; i < count; i++) {
			if (!fds[i].revents)
				continue;
			ssize_t got = read(fds[i].fd, data, sizeof data);
			if (got <= 0 || write(fds[i].fd, data, got) != got) {
				close(fds[i].fd);
				fds[i--] = fds[--count];
			}
		}
	}
	return 1;
}
