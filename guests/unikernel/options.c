/* The arguments of the guest: MirageOS's for its addresses, and one switch for each misbehaviour (README.md). */
#include "guest.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 80, HTTP_PORT = 80 };

bool read_mac(const char *text, uint8_t *mac) {
	unsigned parts[MAC_BYTES];
	char rest;
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", parts, parts + 1, parts + 2, parts + 3, parts + 4, parts + 5, &rest) != MAC_BYTES)
		return false;
	for (int n = 0; n < MAC_BYTES; n++)
		mac[n] = (uint8_t)parts[n];
	return true;
}

static bool read_number(const char *text, int *number) {
	char *end;
	long value = strtol(text, &end, 10);
	*number = (int)value;
	return end != text && !*end && value >= 0 && value <= INT_MAX;
}

static bool read_address(const char *text, int length, struct address *address) {
	char copy[TEXT_BYTES];
	if (strlen(text) >= sizeof copy)
		return false;
	strcpy(copy, text);
	char *slash = strchr(copy, '/');
	address->prefix = address->length = length;
	address->prefix *= 8;
	if (slash) {
		*slash = 0;
		if (!read_number(slash + 1, &address->prefix) || address->prefix > 8 * length)
			return false;
	}
	return inet_pton(length == IPV4_BYTES ? AF_INET : AF_INET6, copy, address->bytes) == 1;
}

static bool read_any_address(const char *text, struct address *address) {
	return read_address(text, strchr(text, ':') ? IPV6_BYTES : IPV4_BYTES, address);
}

static bool add_address(const char *text, int length) {
	return guest.address_count < MAX_ADDRESSES && read_address(text, length, &guest.addresses[guest.address_count++]);
}

/* ADDRESS:PORT; an IPv6 address stands in square brackets. */
static bool add_target(const char *text, bool is_datagram) {
	char copy[TEXT_BYTES], *address = copy;
	int port;
	if (guest.target_count == MAX_TARGETS || strlen(text) >= sizeof copy)
		return false;
	strcpy(copy, text);
	char *colon = strrchr(copy, ':');
	if (!colon || !read_number(colon + 1, &port) || port > 65535)
		return false;
	*colon = 0;
	if (*address == '[' && colon[-1] == ']') {
		colon[-1] = 0;
		address++;
	}
	struct target *added = &guest.targets[guest.target_count++];
	added->port = (uint16_t)port;
	added->is_datagram = is_datagram;
	return read_any_address(address, &added->address);
}

static bool read_name(const char *text) {
	snprintf(guest.options.name, sizeof guest.options.name, "%s", text);
	for (const char *at = guest.options.name; *at; at++)
		if (strchr("<>&\"", *at)) /* it stands in a page */
			return false;
	return *text && strlen(text) < sizeof guest.options.name;
}

struct number_option {
	const char *name;
	int *value;
};

struct switch_option {
	const char *name;
	bool *value, on;
};

static bool read_argument(const char *argument) {
	struct options *options = &guest.options;
	const struct number_option numbers[] = {
	    {"--port=", &options->port},
	    {"--page-bytes=", &options->page_bytes},
	    {"--late-link=", &options->late_link_ms},
	    {"--mld-first=", &options->mld_first_ms},
	    {"--dhcp-first=", &options->dhcp_first_ms},
	    {"--listen-after=", &options->listen_after_ms},
	    {"--die-after=", &options->die_after_ms},
	    {"--exit-status=", &options->exit_status},
	    {"--slow=", &options->slow_ms},
	    {"--slow-frame=", &options->slow_frame_ms},
	    {"--eats-memory=", &options->eats_mb},
	    {"--loses-every=", &options->loses_every},
	};
	const struct switch_option switches[] = {
	    {"--no-announce", &options->announces, false}, {"--loses-queue", &options->loses_queue, true},
	    {"--answers-rst", &options->answers_rst, true}, {"--duplicates", &options->duplicates, true},
	    {"--escapes", &options->escapes, true},         {"--spins", &options->spins, true},
	};
	const char *value = strchr(argument, '=');
	size_t length = value ? (size_t)(++value - argument) : 0;
	for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
		if (value && strlen(numbers[n].name) == length && !strncmp(argument, numbers[n].name, length))
			return read_number(value, numbers[n].value);
	for (size_t n = 0; n < sizeof switches / sizeof *switches; n++)
		if (!strcmp(argument, switches[n].name)) {
			*switches[n].value = switches[n].on;
			return true;
		}
#define IS(NAME) (value && length == sizeof NAME - 1 && !strncmp(argument, NAME, length))
	if (IS("--name="))
		return read_name(value);
	if (IS("--ipv4="))
		return add_address(value, IPV4_BYTES);
	if (IS("--ipv6="))
		return add_address(value, IPV6_BYTES);
	if (IS("--ipv4-gateway="))
		return read_address(value, IPV4_BYTES, &guest.gateway[0]);
	if (IS("--ipv6-gateway="))
		return read_address(value, IPV6_BYTES, &guest.gateway[1]);
	if (IS("--mac="))
		return options->has_other_mac = read_mac(value, options->other_mac);
	if (IS("--address-other="))
		return read_any_address(value, &options->other_address);
	if (IS("--opens="))
		return add_target(value, false);
	if (IS("--sends="))
		return add_target(value, true);
#undef IS
	return false;
}

/* Another address than was configured: the first one of its family is replaced. */
static void use_other_address(void) {
	const struct address *other = &guest.options.other_address;
	for (int n = 0; n < guest.address_count && other->length; n++)
		if (guest.addresses[n].length == other->length) {
			memcpy(guest.addresses[n].bytes, other->bytes, sizeof other->bytes);
			return;
		}
}

static void derive_link_local(void) {
	/* RFC 4291, appendix A */
	struct address *own = &guest.link_local;
	*own = (struct address){IPV6_BYTES, 64, {0xfe, 0x80, [11] = 0xff, [12] = 0xfe}};
	memcpy(own->bytes + 8, guest.mac, 3);
	memcpy(own->bytes + 13, guest.mac + 3, 3);
	own->bytes[8] ^= 2;
}

bool read_options(int count, char **arguments) {
	guest.options = (struct options){.name = "guest", .port = HTTP_PORT, .announces = true, .exit_status = EXIT_ABORT};
	for (int n = 0; n < count; n++)
		if (!read_argument(arguments[n])) {
			say("guest: '%s' is not an argument that it knows, or its value is wrong; see guests/README.md", arguments[n]);
			return false;
		}
	use_other_address();
	if (guest.options.has_other_mac)
		memcpy(guest.mac, guest.options.other_mac, MAC_BYTES);
	derive_link_local();
	return true;
}
