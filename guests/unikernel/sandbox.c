/* The system calls that are left to the guest, an allow-list as that of Solo5's tender: wait, read and write frames, set
   the timer, look at the clock, write to the console, end. Anything else kills the process with SIGSYS. */
#include "guest.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define THIS_MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_MACHINE AUDIT_ARCH_AARCH64
#else
#error "sandbox.c knows x86_64 and aarch64; add the AUDIT_ARCH of this machine"
#endif

#define LOAD(FIELD) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, FIELD))
/* Go on with the next instruction if equal, else skip `others` of them. */
#define IF_EQUAL(VALUE, OTHERS) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(VALUE), 0, OTHERS)
#define RETURN(ACTION) BPF_STMT(BPF_RET | BPF_K, ACTION)
/* Allow a call, whatever its arguments; or only with this first argument (its low 32 bits, on a little-endian machine). */
#define ALLOW(CALL) IF_EQUAL(SYS_##CALL, 1), RETURN(SECCOMP_RET_ALLOW)
#define ALLOW_WITH(CALL, FIRST) \
	IF_EQUAL(SYS_##CALL, 4), LOAD(args[0]), IF_EQUAL(FIRST, 1), RETURN(SECCOMP_RET_ALLOW), LOAD(nr)

bool enter_sandbox(void) {
	struct sock_filter filter[] = {
	    LOAD(arch),
	    IF_EQUAL(THIS_MACHINE, 1),
	    BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
	    RETURN(SECCOMP_RET_KILL_PROCESS),
	    LOAD(nr),
	    ALLOW_WITH(read, guest.tap),
	    ALLOW_WITH(write, guest.tap),
	    ALLOW_WITH(write, 1),
	    ALLOW_WITH(epoll_pwait, guest.epoll),
	    ALLOW_WITH(epoll_pwait, guest.timer_epoll),
	    ALLOW_WITH(timerfd_settime, guest.timer),
	    ALLOW_WITH(clock_gettime, CLOCK_MONOTONIC), /* where the vDSO does not answer */
	    ALLOW(exit_group),
	    RETURN(SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return false;
	return !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
