/* Numbers in network byte order, and the Internet checksum (RFC 1071). */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline uint16_t get16(const uint8_t *at) {
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t get32(const uint8_t *at) {
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static inline void put16(uint8_t *at, unsigned value) {
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value) {
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

/* Add bytes to a sum that is not folded yet. Only the last piece of a sum may have an odd length. */
static inline uint32_t sum_of(uint32_t sum, const uint8_t *bytes, size_t length) {
	for (; length > 1; bytes += 2, length -= 2)
		sum += get16(bytes);
	return length ? sum + ((uint32_t)bytes[0] << 8) : sum;
}

static inline uint16_t folded(uint32_t sum) {
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

#endif
