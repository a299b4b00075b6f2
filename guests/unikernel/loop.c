/* The guest's life: its states (guest.h), one timer, and one frame at a time. */
#include "bytes.h"
#include "guest.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MS_US = 1000, S_US = 1000000, PAGE_BYTES = 4096, AT_ONCE = 64 /* frames between two looks at the timer */ };

static uint8_t frame[FRAME_BYTES];
static int64_t reads_at; /* when a slow guest will look at what has come; 0 if nothing has, or it is not slow */

int64_t microseconds(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * S_US + now.tv_nsec / 1000;
}

static void receive(size_t length) {
	if (length < ETHERNET_BYTES || is_lost() || (memcmp(frame, guest.mac, MAC_BYTES) && !(frame[0] & 1)))
		return;
	unsigned type = get16(frame + 2 * MAC_BYTES);
	if (type == ARP)
		receive_arp(frame, length);
	else if (type == IPV4 || type == IPV6)
		receive_ip(frame, length);
}

static void lose_queue(void) {
	while (read(guest.tap, frame, sizeof frame) > 0)
		continue;
}

/* Go from one state to the next as soon as its time has come; with no delays all of them in one call. */
static void advance(void) {
	const struct options *options = &guest.options;
	while (guest.state < LISTENING && guest.state_until <= guest.now) {
		guest.state++;
		if (guest.state == LINK_UP) {
			if (options->loses_queue)
				lose_queue();
			speak_first();
			int longer = options->mld_first_ms > options->dhcp_first_ms ? options->mld_first_ms : options->dhcp_first_ms;
			guest.state_until = guest.now + (int64_t)longer * MS_US;
		} else if (guest.state == ADDRESSED) {
			if (options->announces)
				announce();
			guest.state_until = guest.now + (int64_t)options->listen_after_ms * MS_US;
		} else {
			guest.boot_us = guest.now - guest.started;
			say("guest: %s serves, %d us after it began", options->name, (int)guest.boot_us);
		}
	}
}

static void die_if_due(void) {
	if (guest.options.die_after_ms && guest.now - guest.started >= (int64_t)guest.options.die_after_ms * MS_US)
		finish(guest.options.exit_status);
}

static int64_t earlier(int64_t one, int64_t other) {
	return one < other ? one : other;
}

/* Return when something is to be done although no frame comes; INT64_MAX if nothing is. */
static int64_t deadline(void) {
	int64_t found = tcp_deadline();
	if (guest.state < LISTENING)
		found = earlier(found, guest.state_until);
	if (guest.options.die_after_ms)
		found = earlier(found, guest.started + (int64_t)guest.options.die_after_ms * MS_US);
	if (reads_at)
		found = earlier(found, reads_at);
	for (int n = 0; n < guest.target_count && guest.state >= ADDRESSED; n++)
		if (!guest.targets[n].is_resolved)
			found = earlier(found, guest.targets[n].ask_again_at);
	return found;
}

static void set_timer(int64_t at) {
	static int64_t set_to = INT64_MAX;
	if (at == set_to)
		return;
	struct itimerspec when = {.it_value = {0, 0}}; /* zero disarms it */
	if (at != INT64_MAX) {
		int64_t positive = at > 0 ? at : 1;
		when.it_value.tv_sec = positive / S_US;
		when.it_value.tv_nsec = positive % S_US * 1000;
	}
	syscall(SYS_timerfd_settime, guest.timer, TFD_TIMER_ABSTIME, &when, NULL);
	set_to = at;
}

/* Wait for a frame or the timer; returns whether there may be a frame. Before its link is up, and while it is slow, the
   guest does not look at its tap. */
static bool wait_for_something(void) {
	struct epoll_event events[2];
	int which = guest.state > ATTACHED && !reads_at ? guest.epoll : guest.timer_epoll;
	int count = (int)syscall(SYS_epoll_pwait, which, events, 2, guest.options.spins ? 0 : -1, NULL, 0);
	for (int n = 0; n < count; n++)
		if (events[n].data.fd == guest.tap)
			return true;
	return false;
}

static void read_frames(int most) {
	for (int n = 0; n < most; n++) {
		ssize_t length = read(guest.tap, frame, sizeof frame);
		if (length <= 0)
			return;
		guest.now = microseconds();
		receive((size_t)length);
	}
}

/* Use memory and system calls as a bad guest does. */
static void misbehave_at_start(void) {
	size_t eats = (size_t)guest.options.eats_mb << 20;
	if (eats > guest.memory_bytes) {
		say("guest: out of memory: it has %zu MB", guest.memory_bytes >> 20);
		finish(EXIT_ABORT);
	}
	for (size_t at = 0; at < eats; at += PAGE_BYTES)
		((volatile uint8_t *)guest.memory)[at] = 1;
	if (guest.options.escapes)
		syscall(SYS_openat, -1, "/", 0);
}

void run_guest(void) {
	misbehave_at_start();
	guest.now = microseconds();
	guest.state_until = guest.now + (int64_t)guest.options.late_link_ms * MS_US;
	for (;;) {
		guest.now = microseconds();
		die_if_due();
		advance();
		if (reads_at && reads_at <= guest.now) {
			reads_at = 0;
			read_frames(guest.options.slow_frame_ms ? 1 : AT_ONCE);
		}
		if (guest.state >= ADDRESSED)
			ask_for_neighbours();
		if (tcp_deadline() <= guest.now)
			tick_tcp();
		set_timer(deadline());
		if (!wait_for_something())
			continue;
		int slow_ms = guest.options.slow_frame_ms ? guest.options.slow_frame_ms : guest.options.slow_ms;
		if (slow_ms)
			reads_at = microseconds() + (int64_t)slow_ms * MS_US;
		else
			read_frames(AT_ONCE);
	}
}
