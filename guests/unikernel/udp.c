/* UDP: an echo on port 7 (RFC 862), and refusals. */
#include "bytes.h"
#include "guest.h"

#include <stdio.h>
#include <string.h>

enum { HEAD_BYTES = 8, HELLO_PORT = 40007 };

void receive_udp(const struct packet *packet) {
	static uint8_t body[FRAME_BYTES];
	if (packet->length < HEAD_BYTES || get16(packet->body + 4) > packet->length || get16(packet->body + 4) < HEAD_BYTES)
		return;
	size_t length = get16(packet->body + 4);
	if (guest.state < LISTENING || get16(packet->body + 2) != ECHO_PORT) {
		send_unreachable(packet);
		return;
	}
	memcpy(body, packet->body, length);
	memcpy(body, packet->body + 2, 2);
	memcpy(body + 2, packet->body, 2);
	send_ip(packet->mac, packet->receiver, packet->sender, packet->address_length, UDP, body, length);
}

void send_hello(const struct target *target, const uint8_t *mac, const uint8_t *own) {
	uint8_t body[HEAD_BYTES + NAME_BYTES + 16];
	int text = snprintf((char *)body + HEAD_BYTES, sizeof body - HEAD_BYTES, "hello from %s", guest.options.name);
	put16(body, HELLO_PORT);
	put16(body + 2, target->port);
	put16(body + 4, (unsigned)(HEAD_BYTES + text));
	send_ip(mac, own, target->address.bytes, target->address.length, UDP, body, (size_t)(HEAD_BYTES + text));
}
