/* IPv4 and IPv6 without fragments and without options, and ICMP. */
#include "bytes.h"
#include "guest.h"

#include <string.h>

enum { IPV4_HEAD = 20, IPV6_HEAD = 40, HOPS = 64, ND_HOPS = 255 };
enum { FRAGMENT_MASK = 0x3fff, DO_NOT_FRAGMENT = 0x4000 };
enum { ECHO4 = 8, ECHO4_REPLY = 0, ECHO6 = 128, ECHO6_REPLY = 129, MLD2_REPORT = 143 };
enum { QUOTED_BYTES = 512 };

/* The hop-by-hop option that each MLD report has (RFC 3810, 5): router alert (RFC 2711), and padding. */
static const uint8_t router_alert[] = {ICMPV6, 0, 5, 2, 0, 0, 1, 0};

/* Return the sum over a body and its pseudo header; a right one is 0. ICMP for IPv4 has no pseudo header. */
static uint16_t checksum(const uint8_t *sender, const uint8_t *receiver, int address_length, int protocol,
                         const uint8_t *body, size_t length) {
	uint32_t sum = 0;
	if (protocol != ICMP) {
		sum = sum_of(sum, sender, (size_t)address_length);
		sum = sum_of(sum, receiver, (size_t)address_length);
		sum += (uint32_t)length + (uint32_t)protocol;
	}
	return folded(sum_of(sum, body, length));
}

void send_ip(const uint8_t *mac, const uint8_t *sender, const uint8_t *receiver, int address_length, int protocol,
             uint8_t *body, size_t length) {
	static uint8_t packet[FRAME_BYTES];
	size_t at = protocol == TCP ? 16 : protocol == UDP ? 6 : 2;
	bool is_report = protocol == ICMPV6 && body[0] == MLD2_REPORT;
	size_t head = address_length == IPV4_BYTES ? IPV4_HEAD : IPV6_HEAD + (is_report ? sizeof router_alert : 0);
	if (head + length > (size_t)guest.mtu)
		return;
	put16(body + at, 0);
	uint16_t sum = checksum(sender, receiver, address_length, protocol, body, length);
	put16(body + at, sum || protocol != UDP ? sum : 0xffff); /* RFC 768: a sum of 0 means that there is none */
	memset(packet, 0, head);
	if (address_length == IPV4_BYTES) {
		packet[0] = 0x45;
		put16(packet + 2, (unsigned)(head + length));
		put16(packet + 6, DO_NOT_FRAGMENT);
		packet[8] = HOPS;
		packet[9] = (uint8_t)protocol;
		memcpy(packet + 12, sender, IPV4_BYTES);
		memcpy(packet + 16, receiver, IPV4_BYTES);
		put16(packet + 10, folded(sum_of(0, packet, IPV4_HEAD)));
	} else {
		bool is_neighbour_discovery = protocol == ICMPV6 && body[0] > ECHO6_REPLY && !is_report;
		packet[0] = 0x60;
		put16(packet + 4, (unsigned)(head - IPV6_HEAD + length));
		packet[6] = is_report ? 0 : (uint8_t)protocol;
		packet[7] = is_neighbour_discovery ? ND_HOPS : is_report ? 1 : HOPS;
		memcpy(packet + 8, sender, IPV6_BYTES);
		memcpy(packet + 24, receiver, IPV6_BYTES);
		memcpy(packet + IPV6_HEAD, router_alert, head - IPV6_HEAD);
	}
	memcpy(packet + head, body, length);
	send_frame(mac, address_length == IPV4_BYTES ? IPV4 : IPV6, packet, head + length);
}

static void send_back(const struct packet *packet, int protocol, uint8_t *body, size_t length) {
	send_ip(packet->mac, packet->receiver, packet->sender, packet->address_length, protocol, body, length);
}

void send_unreachable(const struct packet *packet) {
	bool is_ipv4 = packet->address_length == IPV4_BYTES;
	size_t quoted = packet->whole_length < QUOTED_BYTES ? packet->whole_length : QUOTED_BYTES;
	uint8_t body[8 + QUOTED_BYTES] = {is_ipv4 ? 3 : 1, is_ipv4 ? 3 : 4}; /* port unreachable (RFC 792, RFC 4443) */
	memcpy(body + 8, packet->whole, quoted);
	send_back(packet, is_ipv4 ? ICMP : ICMPV6, body, 8 + quoted);
}

static void receive_icmp(const struct packet *packet) {
	static uint8_t body[FRAME_BYTES];
	bool is_ipv4 = packet->protocol == ICMP;
	if (packet->length < 8 || packet->length > sizeof body)
		return;
	if (packet->body[0] == (is_ipv4 ? ECHO4 : ECHO6) && is_own(packet->receiver, packet->address_length)) {
		memcpy(body, packet->body, packet->length);
		body[0] = is_ipv4 ? ECHO4_REPLY : ECHO6_REPLY;
		send_back(packet, packet->protocol, body, packet->length);
	} else if (!is_ipv4)
		receive_neighbour(packet);
}

/* Fill in a packet; returns false for what the guest does not understand, or what was cut off. */
static bool read_packet(const uint8_t *frame, size_t length, struct packet *packet) {
	const uint8_t *ip = frame + ETHERNET_BYTES;
	size_t there = length - ETHERNET_BYTES, head;
	*packet = (struct packet){.mac = frame + MAC_BYTES, .whole = ip};
	if (get16(frame + 2 * MAC_BYTES) == IPV4) {
		if (there < IPV4_HEAD || ip[0] >> 4 != 4 || get16(ip + 6) & FRAGMENT_MASK)
			return false;
		head = 4 * (size_t)(ip[0] & 15);
		packet->whole_length = get16(ip + 2);
		packet->protocol = ip[9];
		packet->address_length = IPV4_BYTES;
		packet->sender = ip + 12;
		packet->receiver = ip + 16;
		if (head < IPV4_HEAD || head > there || folded(sum_of(0, ip, head)))
			return false;
	} else {
		if (there < IPV6_HEAD || ip[0] >> 4 != 6)
			return false;
		head = IPV6_HEAD;
		packet->whole_length = IPV6_HEAD + (size_t)get16(ip + 4);
		packet->protocol = ip[6];
		packet->address_length = IPV6_BYTES;
		packet->sender = ip + 8;
		packet->receiver = ip + 24;
	}
	if (packet->whole_length < head || packet->whole_length > there)
		return false;
	packet->body = ip + head;
	packet->length = packet->whole_length - head;
	return true;
}

void receive_ip(const uint8_t *frame, size_t length) {
	struct packet packet;
	if (!read_packet(frame, length, &packet))
		return;
	bool has_no_sum = packet.protocol == UDP && packet.address_length == IPV4_BYTES && packet.length >= 8 && !get16(packet.body + 6);
	if (!has_no_sum && checksum(packet.sender, packet.receiver, packet.address_length, packet.protocol, packet.body, packet.length))
		return;
	if (packet.protocol == ICMP || packet.protocol == ICMPV6)
		receive_icmp(&packet);
	else if (!is_own(packet.receiver, packet.address_length))
		return;
	else if (packet.protocol == UDP)
		receive_udp(&packet);
	else if (packet.protocol == TCP)
		receive_tcp(&packet);
}
