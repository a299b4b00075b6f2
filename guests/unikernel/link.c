/* Frames that the guest sends. */
#include "bytes.h"
#include "guest.h"

#include <string.h>
#include <unistd.h>

/* Lose each Nth frame, of those that come and go together. */
bool is_lost(void) {
	static int passed;
	if (!guest.options.loses_every || ++passed < guest.options.loses_every)
		return false;
	passed = 0;
	return true;
}

void send_frame(const uint8_t *to, unsigned type, const uint8_t *payload, size_t length) {
	static uint8_t frame[FRAME_BYTES];
	if (length > sizeof frame - ETHERNET_BYTES || is_lost())
		return;
	memcpy(frame, to, MAC_BYTES);
	memcpy(frame + MAC_BYTES, guest.mac, MAC_BYTES);
	put16(frame + 2 * MAC_BYTES, type);
	memcpy(frame + ETHERNET_BYTES, payload, length);
	for (int copies = guest.options.duplicates ? 2 : 1; copies > 0; copies--)
		if (write(guest.tap, frame, ETHERNET_BYTES + length) < 0)
			return; /* the tap is down, or its queue is full: the frame is lost, as on a wire */
}
