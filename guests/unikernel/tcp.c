/* TCP (RFC 9293), as much of it as a page needs: one HTTP port, an echo on port 7, connections of the guest's own, its
   own segments sent again until they are acknowledged, FIN in both directions, RST for everything else. Segments that
   come out of order are dropped: the peer sends them again.

   A connection's bytes are a stream with offsets from 0; offset 0 has the sequence number `first`. The FIN, once
   `ends` is set, has the offset `end`.

       0 ......... acked ......... sent ......... end (FIN)
                   |  on the wire  |  to be sent  |
*/
#include "bytes.h"
#include "guest.h"

#include <stdio.h>
#include <string.h>

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
enum { HEAD_BYTES = 20, MSS_OPTION = 2, MSS_OPTION_BYTES = 4, DEFAULT_MSS = 536 };
enum { MAX_CONNECTIONS = 4096, BUCKETS = 4096, RING_BYTES = 4096, WINDOW = 16384, IN_FLIGHT = 10 /* segments, RFC 6928 */ };
enum { MAX_TRIES = 8, FIRST_SYN_US = 1000000 /* RFC 6298, 2.1 */, FIRST_TRY_US = 300000, TIME_WAIT_US = 1000000, IDLE_US = 60000000, OWN_PORT = 40000 };

enum stage { FREE, SYN_RECEIVED, SYN_SENT, OPEN, TIME_WAIT };

struct connection {
	enum stage stage;
	int address_length, tries, next;
	uint8_t mac[MAC_BYTES], own[IPV6_BYTES], peer[IPV6_BYTES];
	uint16_t own_port, peer_port;
	uint32_t expected, first;  /* sequence numbers: of the peer's next byte, and of our stream's byte 0 */
	uint32_t acked, sent, end; /* offsets in our stream */
	uint32_t furthest;         /* what `sent` has been at most: it goes back when segments are sent again */
	uint32_t window, mss;      /* of the peer */
	bool ends, peer_ended, is_answered;
	int64_t deadline;
	unsigned matched; /* how many bytes of the empty line after an HTTP request have come */
	size_t ring_end;  /* of an HTTP response: its bytes from here on are dots */
};

/* A segment that was received. */
struct segment {
	const struct packet *packet;
	uint16_t peer_port, own_port;
	uint32_t sequence, acknowledged, window, mss;
	uint8_t flags;
	const uint8_t *data;
	size_t length;
};

static struct connection connections[MAX_CONNECTIONS];
static uint8_t rings[MAX_CONNECTIONS][RING_BYTES]; /* what is to be sent; apart, so that a search touches little memory */
static int buckets[BUCKETS]; /* the first connection with each hash; 0 is none, so connection 0 is never used */
static int first_free, used = 1; /* a list by `next`; all connections from `used` on are free too */
static int64_t earliest = INT64_MAX; /* no deadline is before this; it may be too early */

static uint8_t *ring_of(const struct connection *of) {
	return rings[of - connections];
}

static void send_segment(const struct connection *to, uint8_t flags, uint32_t sequence, size_t length) {
	static uint8_t body[FRAME_BYTES];
	size_t head = HEAD_BYTES + (flags & SYN ? MSS_OPTION_BYTES : 0);
	size_t offset = (size_t)(sequence - to->first);
	memset(body, 0, head);
	put16(body, to->own_port);
	put16(body + 2, to->peer_port);
	put32(body + 4, sequence);
	put32(body + 8, flags & ACK ? to->expected : 0);
	body[12] = (uint8_t)(head << 2);
	body[13] = flags;
	put16(body + 14, WINDOW);
	if (flags & SYN) {
		body[HEAD_BYTES] = MSS_OPTION;
		body[HEAD_BYTES + 1] = MSS_OPTION_BYTES;
		put16(body + HEAD_BYTES + 2, (unsigned)(guest.mtu - HEAD_BYTES - (to->address_length == IPV6_BYTES ? 40 : 20)));
	}
	for (size_t n = 0; n < length; n++)
		body[head + n] = to->ring_end && offset + n >= to->ring_end ? '.' : ring_of(to)[(offset + n) % RING_BYTES];
	send_ip(to->mac, to->own, to->peer, to->address_length, TCP, body, head + length);
}

/* Refuse a segment for which there is no connection (RFC 9293, 3.5.2). */
static void refuse(const struct segment *segment) {
	struct connection nobody = {.address_length = segment->packet->address_length,
	                            .own_port = segment->own_port,
	                            .peer_port = segment->peer_port,
	                            .expected = segment->sequence + (uint32_t)segment->length + !!(segment->flags & SYN) +
	                                        !!(segment->flags & FIN)};
	if (segment->flags & RST)
		return;
	memcpy(nobody.mac, segment->packet->mac, MAC_BYTES);
	memcpy(nobody.own, segment->packet->receiver, (size_t)nobody.address_length);
	memcpy(nobody.peer, segment->packet->sender, (size_t)nobody.address_length);
	if (segment->flags & ACK)
		send_segment(&nobody, RST, segment->acknowledged, 0);
	else
		send_segment(&nobody, RST | ACK, 0, 0);
}

/* --- the table of connections --- */

static int *bucket_of(int own_port, int peer_port, const uint8_t *peer, int length) {
	unsigned hash = (unsigned)(own_port * 31 + peer_port) * 2654435761U + peer[length - 1] * 40503U;
	return &buckets[hash >> 8 & (BUCKETS - 1)];
}

static struct connection *find(const struct segment *segment) {
	int length = segment->packet->address_length;
	const uint8_t *peer = segment->packet->sender, *own = segment->packet->receiver;
	int at = *bucket_of(segment->own_port, segment->peer_port, peer, length);
	for (; at; at = connections[at].next) {
		struct connection *each = &connections[at];
		if (each->peer_port == segment->peer_port && each->own_port == segment->own_port &&
		    each->address_length == length && !memcmp(each->peer, peer, (size_t)length) && !memcmp(each->own, own, (size_t)length))
			return each;
	}
	return NULL;
}

static void release(struct connection *done) {
	int own = (int)(done - connections);
	int *link = bucket_of(done->own_port, done->peer_port, done->peer, done->address_length);
	while (*link != own)
		link = &connections[*link].next;
	*link = done->next;
	done->stage = FREE;
	done->next = first_free;
	first_free = own;
}

/* Return a new connection, in place of one that only waits for late segments if there is no room; NULL if there is none.
   Its ends are in a packet that was received, or `own` and `peer` of one that the guest opens. */
static struct connection *new_connection(const uint8_t *own, int own_port, const uint8_t *peer, int peer_port, int length) {
	for (int n = 1; !first_free && used == MAX_CONNECTIONS && n < used; n++)
		if (connections[n].stage == TIME_WAIT)
			release(&connections[n]);
	int at = first_free;
	if (at)
		first_free = connections[at].next;
	else if (used < MAX_CONNECTIONS)
		at = used++;
	else
		return NULL;
	int *bucket = bucket_of(own_port, peer_port, peer, length);
	struct connection *made = &connections[at];
	*made = (struct connection){.address_length = length, .own_port = (uint16_t)own_port, .peer_port = (uint16_t)peer_port, .next = *bucket};
	memcpy(made->own, own, (size_t)length);
	memcpy(made->peer, peer, (size_t)length);
	*bucket = at;
	return made;
}

static void set_deadline(struct connection *of, int64_t at) {
	of->deadline = at;
	if (at < earliest)
		earliest = at;
}

static uint32_t first_sequence(void) {
	return (uint32_t)(guest.now / 4); /* RFC 9293, 3.4.1: a clock that counts every 4 microseconds */
}

static void wait_for_ack(struct connection *to) {
	set_deadline(to, guest.now + ((int64_t)(to->stage == OPEN ? FIRST_TRY_US : FIRST_SYN_US) << to->tries));
}

/* Send what the peer's window and ours allow. `forced` sends one segment again, or into a window of 0. */
static void send_stream(struct connection *to, bool needs_ack, bool forced) {
	uint32_t total = to->end + to->ends;
	uint32_t limit = to->window < IN_FLIGHT * to->mss ? to->window : IN_FLIGHT * to->mss;
	bool was_idle = to->sent == to->acked;
	if (forced)
		limit = to->mss;
	while (to->sent < total && to->sent - to->acked <= limit) {
		uint32_t length = to->end - to->sent, room = limit - (to->sent - to->acked);
		length = length < to->mss ? length : to->mss;
		length = length < room ? length : room;
		bool is_last = to->sent + length == to->end;
		if (!length && !(is_last && to->ends))
			break;
		send_segment(to, ACK | (is_last ? PSH : 0) | (is_last && to->ends ? FIN : 0), to->first + to->sent, length);
		to->sent += length + (is_last && to->ends);
		if (to->sent > to->furthest)
			to->furthest = to->sent;
		needs_ack = false;
	}
	if (needs_ack)
		send_segment(to, ACK, to->first + to->sent, 0);
	if (to->acked < total && (was_idle || forced))
		wait_for_ack(to);
}

static void add_to_stream(struct connection *to, const uint8_t *data, size_t length) {
	for (size_t n = 0; n < length; n++)
		ring_of(to)[to->end++ % RING_BYTES] = data[n];
}

/* Look at the peer's bytes; returns how many are taken. */
static size_t take_data(struct connection *from, const uint8_t *data, size_t length) {
	static const char empty_line[] = "\r\n\r\n";
	if (from->own_port == ECHO_PORT) {
		size_t room = RING_BYTES - (size_t)(from->end - from->acked);
		length = length < room ? length : room;
		add_to_stream(from, data, length);
		return length;
	}
	for (size_t n = 0; n < length && from->own_port == guest.options.port && !from->is_answered; n++) {
		if (data[n] == (uint8_t)empty_line[from->matched])
			from->matched++;
		else
			from->matched = data[n] == '\r';
		if (from->matched == sizeof empty_line - 1) {
			size_t total;
			from->ring_end = page_head((char *)ring_of(from), RING_BYTES, &total);
			from->end = (uint32_t)total;
			from->is_answered = from->ends = true;
		}
	}
	return length;
}

static void receive_in_order(struct connection *from, const struct segment *segment) {
	uint32_t before = from->expected - segment->sequence; /* bytes that have come already */
	size_t whole = segment->length + !!(segment->flags & FIN);
	if (!whole)
		return;
	if (before >= whole || from->peer_ended) { /* old, or after a gap: say again what is expected */
		send_stream(from, true, false);
		return;
	}
	size_t there = before < segment->length ? segment->length - before : 0;
	size_t taken = take_data(from, segment->data + before, there);
	from->expected += (uint32_t)taken;
	if (segment->flags & FIN && taken == there) {
		from->expected++;
		from->peer_ended = from->ends = true;
	}
	send_stream(from, true, false);
}

/* Take an acknowledgement; returns false if it is of something that was never sent. */
static bool receive_ack(struct connection *from, const struct segment *segment) {
	uint32_t acked = segment->acknowledged - from->first;
	if (from->stage == SYN_RECEIVED && acked)
		return false;
	if (from->stage == SYN_RECEIVED)
		from->stage = OPEN;
	from->window = segment->window;
	if (acked - from->acked > from->furthest - from->acked)
		return acked - from->acked >= 1U << 31; /* an old one is of no interest */
	if (acked != from->acked) {
		from->acked = acked;
		if (from->sent < acked)
			from->sent = acked;
		from->tries = 0;
	}
	if (from->acked == from->end + from->ends)
		set_deadline(from, guest.now + IDLE_US);
	else
		wait_for_ack(from);
	return true;
}

static void end_if_done(struct connection *each) {
	if (each->stage != OPEN || !each->ends || each->acked != each->end + 1 || !each->peer_ended)
		return;
	each->stage = TIME_WAIT; /* a FIN of the peer that comes again is acknowledged */
	set_deadline(each, guest.now + TIME_WAIT_US);
}

static void accept_connection(const struct segment *segment) {
	bool is_open = segment->own_port == ECHO_PORT || segment->own_port == guest.options.port;
	struct connection *made = NULL;
	if (is_open && guest.state >= LISTENING && !guest.options.answers_rst)
		made = new_connection(segment->packet->receiver, segment->own_port, segment->packet->sender, segment->peer_port,
		                      segment->packet->address_length);
	if (!made) {
		refuse(segment);
		return;
	}
	made->stage = SYN_RECEIVED;
	memcpy(made->mac, segment->packet->mac, MAC_BYTES);
	made->expected = segment->sequence + 1;
	made->first = first_sequence() + 1;
	made->window = segment->window;
	made->mss = segment->mss;
	send_segment(made, SYN | ACK, made->first - 1, 0);
	wait_for_ack(made);
}

static void receive_syn_ack(struct connection *from, const struct segment *segment) {
	if (!(segment->flags & ACK) || segment->acknowledged != from->first) {
		refuse(segment);
		return;
	}
	if (segment->flags & RST) {
		say("guest: its own connection to port %d is refused", from->peer_port);
		release(from);
	} else if (segment->flags & SYN) {
		char text[NAME_BYTES + 16];
		int length = snprintf(text, sizeof text, "hello from %s\n", guest.options.name);
		say("guest: its own connection to port %d is open", from->peer_port);
		from->stage = OPEN;
		from->expected = segment->sequence + 1;
		from->window = segment->window;
		from->mss = segment->mss;
		from->tries = 0;
		add_to_stream(from, (const uint8_t *)text, (size_t)length);
		from->ends = true;
		send_stream(from, true, false);
	}
}

/* Fill in a segment; returns false if it is cut off. */
static bool read_segment(const struct packet *packet, struct segment *segment) {
	const uint8_t *head = packet->body;
	if (packet->length < HEAD_BYTES)
		return false;
	size_t head_length = (size_t)(head[12] >> 4) * 4;
	if (head_length < HEAD_BYTES || head_length > packet->length)
		return false;
	uint32_t mss = DEFAULT_MSS;
	for (size_t at = HEAD_BYTES; at + 1 < head_length && head[at];) {
		if (head[at] == 1) { /* no operation: the only option without a length */
			at++;
			continue;
		}
		if (head[at] == MSS_OPTION && head[at + 1] == MSS_OPTION_BYTES && at + MSS_OPTION_BYTES <= head_length)
			mss = get16(head + at + 2);
		if (head[at + 1] < 2)
			break;
		at += head[at + 1];
	}
	uint32_t own_mss = (uint32_t)guest.mtu - HEAD_BYTES - (packet->address_length == IPV6_BYTES ? 40 : 20);
	*segment = (struct segment){.packet = packet,
	                            .peer_port = get16(head),
	                            .own_port = get16(head + 2),
	                            .sequence = get32(head + 4),
	                            .acknowledged = get32(head + 8),
	                            .flags = head[13],
	                            .window = get16(head + 14),
	                            .mss = mss && mss < own_mss ? mss : own_mss,
	                            .data = head + head_length,
	                            .length = packet->length - head_length};
	return true;
}

void receive_tcp(const struct packet *packet) {
	struct segment segment;
	if (!read_segment(packet, &segment))
		return;
	struct connection *found = guest.options.answers_rst ? NULL : find(&segment);
	bool is_syn = (segment.flags & (SYN | ACK | RST)) == SYN;
	if (found && found->stage == TIME_WAIT && is_syn && segment.sequence != found->expected - 1) {
		release(found); /* the client uses the port for a new connection */
		found = NULL;
	}
	if (!found) {
		if (is_syn)
			accept_connection(&segment);
		else
			refuse(&segment);
	} else if (found->stage == SYN_SENT) {
		receive_syn_ack(found, &segment);
	} else if (segment.flags & RST) {
		if (segment.sequence == found->expected)
			release(found);
	} else if (segment.flags & SYN) {
		if (found->stage == SYN_RECEIVED && segment.sequence == found->expected - 1)
			send_segment(found, SYN | ACK, found->first - 1, 0); /* it has come twice */
		else
			send_segment(found, ACK, found->first + found->sent, 0); /* RFC 5961, 4.2 */
	} else if (segment.flags & ACK) {
		memcpy(found->mac, packet->mac, MAC_BYTES); /* whoever masked the guest may have spoken for the client first */
		if (!receive_ack(found, &segment)) {
			refuse(&segment);
			return;
		}
		if (!segment.length && !(segment.flags & FIN))
			send_stream(found, false, false);
		else
			receive_in_order(found, &segment);
		end_if_done(found);
	}
}

void open_tcp(const struct target *target, const uint8_t *mac, const uint8_t *own) {
	struct connection *made = new_connection(own, OWN_PORT + (int)(target - guest.targets), target->address.bytes,
	                                         target->port, target->address.length);
	if (!made)
		return;
	made->stage = SYN_SENT;
	memcpy(made->mac, mac, MAC_BYTES);
	made->first = first_sequence() + 1;
	send_segment(made, SYN, made->first - 1, 0);
	wait_for_ack(made);
}

/* Do what a connection's deadline is for. */
static void tick(struct connection *each) {
	bool has_unacknowledged = each->stage != OPEN || each->acked != each->end + each->ends;
	if (each->stage == TIME_WAIT || !has_unacknowledged || ++each->tries > MAX_TRIES) {
		release(each);
		return;
	}
	if (each->stage == OPEN) {
		each->sent = each->acked; /* everything after the first lost segment is sent again */
		send_stream(each, false, true);
	} else {
		send_segment(each, each->stage == SYN_SENT ? SYN : SYN | ACK, each->first - 1, 0);
		wait_for_ack(each);
	}
}

void tick_tcp(void) {
	for (int n = 1; n < used; n++)
		if (connections[n].stage != FREE && connections[n].deadline <= guest.now)
			tick(&connections[n]);
	earliest = INT64_MAX;
	for (int n = 1; n < used; n++)
		if (connections[n].stage != FREE && connections[n].deadline < earliest)
			earliest = connections[n].deadline;
}

int64_t tcp_deadline(void) {
	return earliest;
}
