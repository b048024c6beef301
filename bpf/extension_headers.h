/* The headers that may stand between those of IPv6 and of UDP or TCP (RFC 8200). */
#pragma once

#define MOST_EXTENSION_HEADERS 6

static __always_inline bool is_extension_header(u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_DSTOPTS;
}
