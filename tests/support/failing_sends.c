/* Sends that fail: preloaded into a process (ld.so(8), LD_PRELOAD), it lets every Nth send on a stream socket fail, with
 * each errno in turn.
 *
 * FAIL_EVERY is N. Left out are the errnos at which libzmq 4.3.5 ends its process (tcp.cpp, tcp_write): those of a wrong
 * call, which Linux does not give for a connected stream socket.
 *
 * Build: gcc -shared -fPIC -O2 -o failing_sends.so failing_sends.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

static const int left_out[] = {EACCES, EBADF, EDESTADDRREQ, EFAULT, EISCONN, EMSGSIZE, ENOMEM, ENOTSOCK, EOPNOTSUPP};
enum { LAST_ERRNO = 133 };

static atomic_long count, failed;

long failed_sends(void) { return failed; }

/* Return the errno that this send fails with, 0 if it is to be sent. */
static int fails(int fd) {
    const char *every = getenv("FAIL_EVERY");
    int kind = 0;
    socklen_t length = sizeof kind;
    if (!every || getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) || kind != SOCK_STREAM) return 0;
    if (++count % atol(every)) return 0;
    for (;;) {
        int number = failed++ % LAST_ERRNO + 1, known = 0;
        for (size_t at = 0; at < sizeof left_out / sizeof *left_out; at++) known |= left_out[at] == number;
        if (!known) return number;
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_OR(fd, call)        \
    do {                         \
        int number = fails(fd);  \
        if (!number) return call; \
        errno = number;          \
        return -1;               \
    } while (0)

ssize_t send(int fd, const void *data, size_t size, int flags) { FAIL_OR(fd, REAL(send)(fd, data, size, flags)); }

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    FAIL_OR(fd, REAL(sendto)(fd, data, size, flags, to, length));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) { FAIL_OR(fd, REAL(sendmsg)(fd, message, flags)); }

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count_, int flags) {
    FAIL_OR(fd, REAL(sendmmsg)(fd, messages, count_, flags));
}
