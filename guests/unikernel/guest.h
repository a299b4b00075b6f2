/* The guest: a small network stack on a tap, and the ways in which it can misbehave.

   One process is one guest, so its state is one global variable. After sandbox.c has run, only a handful of system calls
   is left; that is why nothing here allocates memory.

   state       what the guest does                                                    until
   attached    nothing: frames queue in the tap                                       --late-link
   link up     reads frames; no address is its own yet; speaks MLD or DHCP if told to  --mld-first, --dhcp-first
   addressed   announces itself, answers ARP, ND and pings, refuses connections       --listen-after
   listening   serves
   Each time counts from the state before it; --die-after counts from the start. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_ADDRESSES = 8, MAX_TARGETS = 4, MAC_BYTES = 6, IPV4_BYTES = 4, IPV6_BYTES = 16 };
enum { FRAME_BYTES = 65536, ETHERNET_BYTES = 14, NAME_BYTES = 64 };
enum { ARP = 0x0806, IPV4 = 0x0800, IPV6 = 0x86dd };
enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58 };
enum { ECHO_PORT = 7, EXIT_USAGE = 64, EXIT_ABORT = 255 };

struct address {
	int length; /* IPV4_BYTES, IPV6_BYTES, or 0 for none */
	int prefix;
	uint8_t bytes[IPV6_BYTES];
};

/* Somebody whom the guest itself connects to, or sends a datagram to. */
struct target {
	struct address address;
	uint16_t port;
	bool is_datagram;
	bool is_resolved;
	int64_t ask_again_at;
};

struct options {
	char name[NAME_BYTES];
	int port, page_bytes;
	int late_link_ms, mld_first_ms, dhcp_first_ms, listen_after_ms, die_after_ms, slow_ms, slow_frame_ms;
	int exit_status, eats_mb, loses_every;
	bool announces, loses_queue, answers_rst, duplicates, escapes, spins, has_other_mac;
	uint8_t other_mac[MAC_BYTES];
	struct address other_address;
};

enum state { ATTACHED, LINK_UP, ADDRESSED, LISTENING };

struct guest {
	struct options options;
	enum state state;
	int tap, timer, mtu;
	int epoll, timer_epoll; /* for the tap and the timer; for the timer alone */
	uint8_t *memory;        /* that the tender gave it */
	size_t memory_bytes;
	uint8_t mac[MAC_BYTES];
	struct address addresses[MAX_ADDRESSES]; /* as configured */
	int address_count;
	struct address link_local, gateway[2]; /* gateway[0] for IPv4, gateway[1] for IPv6 */
	struct target targets[MAX_TARGETS];
	int target_count;
	int64_t now, started, state_until, boot_us; /* microseconds of the monotonic clock */
};

extern struct guest guest;

/* A packet that was received: the addresses point into the frame. */
struct packet {
	const uint8_t *mac, *sender, *receiver, *whole, *body;
	int address_length, protocol;
	size_t whole_length, length;
};

/* options.c: returns false, with a line on the console, if an argument is wrong. */
bool read_options(int count, char **arguments);
bool read_mac(const char *text, uint8_t *mac);

/* console.c */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void finish(int status) __attribute__((noreturn));

/* link.c */
bool is_lost(void);
void send_frame(const uint8_t *to, unsigned type, const uint8_t *payload, size_t length);

/* neighbours.c */
void announce(void);
void speak_first(void);
void receive_arp(const uint8_t *frame, size_t length);
void receive_neighbour(const struct packet *packet);
void ask_for_neighbours(void);
bool is_own(const uint8_t *address, int length);

/* ip.c: the sender's address is one of the guest's; a body is changed, because its checksum is put into it. */
void receive_ip(const uint8_t *frame, size_t length);
void send_ip(const uint8_t *mac, const uint8_t *sender, const uint8_t *receiver, int address_length, int protocol,
             uint8_t *body, size_t length);
void send_unreachable(const struct packet *packet);

/* udp.c and tcp.c */
void receive_udp(const struct packet *packet);
void send_hello(const struct target *target, const uint8_t *mac, const uint8_t *own);
void receive_tcp(const struct packet *packet);
void open_tcp(const struct target *target, const uint8_t *mac, const uint8_t *own);
void tick_tcp(void);
int64_t tcp_deadline(void);

/* page.c: an HTTP response; the body is longer than `room` if options.page_bytes says so. */
size_t page_head(char *room, size_t size, size_t *total);

/* sandbox.c: from now on only what the guest needs is allowed; anything else kills the process (SIGSYS). */
bool enter_sandbox(void);

/* loop.c: serves until the guest dies. */
int64_t microseconds(void);
void run_guest(void) __attribute__((noreturn));

#endif
