/* Who has which address: ARP (RFC 826) and Neighbor Discovery (RFC 4861), announcements, and what guests of other
   kinds send before they have an address at all: MLD reports (RFC 3810), duplicate address detection (RFC 4862), DHCP. */
#include "bytes.h"
#include "guest.h"

#include <string.h>

enum { ARP_BYTES = 28, REQUEST = 1, REPLY = 2 };
enum { SOLICITATION = 135, ADVERTISEMENT = 136, MLD2_REPORT = 143 };
enum { OVERRIDE = 0x20, SOLICITED = 0x40 };
enum { ASK_AGAIN_US = 1000000 };

static const uint8_t everybody[MAC_BYTES] = {255, 255, 255, 255, 255, 255};
static const uint8_t all_nodes_mac[MAC_BYTES] = {0x33, 0x33, 0, 0, 0, 1};
static const uint8_t all_nodes[IPV6_BYTES] = {0xff, 2, [15] = 1};
static const uint8_t unspecified[IPV6_BYTES] = {0};

bool is_own(const uint8_t *address, int length) {
	if (guest.state < ADDRESSED)
		return false;
	if (length == IPV6_BYTES && !memcmp(address, guest.link_local.bytes, IPV6_BYTES))
		return true;
	for (int n = 0; n < guest.address_count; n++)
		if (guest.addresses[n].length == length && !memcmp(address, guest.addresses[n].bytes, (size_t)length))
			return true;
	return false;
}

static void send_arp(int operation, const uint8_t *to, const uint8_t *own, const uint8_t *mac, const uint8_t *target) {
	uint8_t body[ARP_BYTES] = {0, 1, 8, 0, MAC_BYTES, IPV4_BYTES, 0, (uint8_t)operation};
	memcpy(body + 8, guest.mac, MAC_BYTES);
	memcpy(body + 14, own, IPV4_BYTES);
	memcpy(body + 18, mac, MAC_BYTES);
	memcpy(body + 24, target, IPV4_BYTES);
	send_frame(to, ARP, body, sizeof body);
}

static void send_advertisement(const uint8_t *mac, const uint8_t *own, const uint8_t *to, uint8_t flags) {
	uint8_t body[32] = {ADVERTISEMENT, 0, 0, 0, flags, [24] = 2, 1};
	memcpy(body + 8, own, IPV6_BYTES);
	memcpy(body + 26, guest.mac, MAC_BYTES);
	send_ip(mac, own, to, IPV6_BYTES, ICMPV6, body, sizeof body);
}

/* Ask who has an IPv6 address; with no sender it is duplicate address detection. */
static void send_solicitation(const uint8_t *sender, const uint8_t *target) {
	uint8_t group[IPV6_BYTES] = {0xff, 2, [11] = 1, [12] = 0xff}, mac[MAC_BYTES] = {0x33, 0x33, 0xff};
	uint8_t body[32] = {SOLICITATION, [24] = 1, 1};
	memcpy(group + 13, target + 13, 3);
	memcpy(mac + 3, target + 13, 3);
	memcpy(body + 8, target, IPV6_BYTES);
	memcpy(body + 26, guest.mac, MAC_BYTES);
	/* RFC 4861, 4.3: a solicitation without a sender's address has no option for its link-layer address. */
	send_ip(mac, sender, group, IPV6_BYTES, ICMPV6, body, sender == unspecified ? 24 : sizeof body);
}

void announce(void) {
	for (int n = 0; n < guest.address_count; n++) {
		const struct address *own = &guest.addresses[n];
		if (own->length == IPV4_BYTES)
			send_arp(REQUEST, everybody, own->bytes, unspecified, own->bytes);
		else
			send_advertisement(all_nodes_mac, own->bytes, all_nodes, OVERRIDE);
	}
}

static void report_groups(void) {
	static const uint8_t routers[IPV6_BYTES] = {0xff, 2, [15] = 0x16}, routers_mac[MAC_BYTES] = {0x33, 0x33, 0, 0, 0, 0x16};
	uint8_t body[28] = {MLD2_REPORT, [7] = 1, [8] = 4 /* CHANGE_TO_EXCLUDE_MODE */, [12] = 0xff, 2, [23] = 1, [24] = 0xff};
	memcpy(body + 25, guest.link_local.bytes + 13, 3);
	send_ip(routers_mac, unspecified, routers, IPV6_BYTES, ICMPV6, body, sizeof body);
	send_solicitation(unspecified, guest.link_local.bytes);
	for (int n = 0; n < guest.address_count; n++)
		if (guest.addresses[n].length == IPV6_BYTES)
			send_solicitation(unspecified, guest.addresses[n].bytes);
}

static void discover_dhcp(void) {
	enum { OPTIONS = 8 + 236 };
	uint8_t body[OPTIONS + 60] = {0, 68, 0, 67, [8] = 1, 1, MAC_BYTES};
	static const uint8_t options[] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1 /* DHCPDISCOVER */, 255};
	put16(body + 4, sizeof body);
	put32(body + 12, (uint32_t)guest.now);
	memcpy(body + 8 + 28, guest.mac, MAC_BYTES);
	memcpy(body + OPTIONS, options, sizeof options);
	static const uint8_t broadcast[IPV4_BYTES] = {255, 255, 255, 255};
	send_ip(everybody, unspecified, broadcast, IPV4_BYTES, UDP, body, sizeof body);
}

void speak_first(void) {
	if (guest.options.mld_first_ms)
		report_groups();
	if (guest.options.dhcp_first_ms)
		discover_dhcp();
}

/* The guest keeps no table of neighbours: it answers to the MAC address from which it was asked. It looks up only those
   to whom it speaks first. */
static void resolved(const uint8_t *address, int length, const uint8_t *mac);

void receive_arp(const uint8_t *frame, size_t length) {
	const uint8_t *body = frame + ETHERNET_BYTES;
	if (length < ETHERNET_BYTES + ARP_BYTES)
		return;
	if (get16(body + 6) == REQUEST && is_own(body + 24, IPV4_BYTES))
		send_arp(REPLY, body + 8, body + 24, body + 8, body + 14);
	else if (get16(body + 6) == REPLY)
		resolved(body + 14, IPV4_BYTES, body + 8);
}

void receive_neighbour(const struct packet *packet) {
	const uint8_t *target = packet->body + 8;
	if (packet->length < 24)
		return;
	if (packet->body[0] == SOLICITATION && is_own(target, IPV6_BYTES)) {
		if (memcmp(packet->sender, unspecified, IPV6_BYTES))
			send_advertisement(packet->mac, target, packet->sender, OVERRIDE | SOLICITED);
		else
			send_advertisement(all_nodes_mac, target, all_nodes, OVERRIDE);
	} else if (packet->body[0] == ADVERTISEMENT)
		resolved(target, IPV6_BYTES, packet->mac);
}

/* --- those whom the guest speaks to first --- */

static bool is_same_network(const struct address *own, const uint8_t *address) {
	int whole = own->prefix / 8, rest = own->prefix % 8;
	if (memcmp(own->bytes, address, (size_t)whole))
		return false;
	return !rest || !((own->bytes[whole] ^ address[whole]) & (0xff00 >> rest) & 0xff);
}

/* Return the guest's own address for a target, and who is asked for on the link: the target, or the gateway. */
static const uint8_t *route(const struct target *target, const uint8_t **next) {
	int length = target->address.length;
	const struct address *gateway = &guest.gateway[length == IPV6_BYTES];
	for (int n = 0; n < guest.address_count; n++) {
		const struct address *own = &guest.addresses[n];
		if (own->length != length)
			continue;
		*next = is_same_network(own, target->address.bytes) || !gateway->length ? target->address.bytes : gateway->bytes;
		return own->bytes;
	}
	return NULL;
}

void ask_for_neighbours(void) {
	for (int n = 0; n < guest.target_count; n++) {
		struct target *target = &guest.targets[n];
		const uint8_t *next, *own = route(target, &next);
		if (target->is_resolved || target->ask_again_at > guest.now || !own)
			continue;
		target->ask_again_at = guest.now + ASK_AGAIN_US;
		if (target->address.length == IPV4_BYTES)
			send_arp(REQUEST, everybody, own, unspecified, next);
		else
			send_solicitation(own, next);
	}
}

static void resolved(const uint8_t *address, int length, const uint8_t *mac) {
	for (int n = 0; n < guest.target_count; n++) {
		struct target *target = &guest.targets[n];
		const uint8_t *next, *own = route(target, &next);
		if (target->is_resolved || target->address.length != length || !own || memcmp(next, address, (size_t)length))
			continue;
		target->is_resolved = true;
		if (target->is_datagram)
			send_hello(target, mac, own);
		else
			open_tcp(target, mac, own);
	}
}
