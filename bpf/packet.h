/* A packet as the programs on it see it: its headers looked at once. */
#pragma once

#include "extension_headers.h"

#define TCP_SYN 2 /* of the flags */

/* RFC 9293, 3.1 */
struct tcp_header {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	u8 data_offset; /* in its upper half, in words */
	u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

/* Returns `size`, from 1 to `most`, a power of two, so that the verifier sees that it is. */
static __always_inline u64 from_one_to(const u64 most, u64 size)
{
	barrier_var(size);
	return ((size - 1) & (most - 1)) + 1;
}

struct packet {
	struct __sk_buff *skb;
	u8 *header;    /* of IP: what every packet of that version has of it can be read */
	u32 transport; /* where the header of UDP or TCP begins, in bytes from there */
	u8 protocol;
	bool ipv6;
	bool sent;
};

static __always_inline void pass_over_extension_headers(struct packet *packet)
{
	u8 extension[2]; /* the protocol that follows, and the length in 8 bytes beyond the first */
	int i;

	for (i = 0; i < MOST_EXTENSION_HEADERS && is_extension_header(packet->protocol); i++) {
		if (bpf_skb_load_bytes(packet->skb, packet->transport, extension, sizeof(extension)))
			return;
		packet->transport += packet->protocol == IPPROTO_FRAGMENT ? 8 : (extension[1] + 1) * 8;
		packet->protocol = extension[0];
	}
}

/* Returns whether it is a whole IP packet.
 *
 * The hooks stand before the kernel cuts a datagram into fragments, and after it has put them together: there are none
 * here but those that programs made by themselves with raw sockets, which are not counted. */
static __always_inline bool read_headers(struct __sk_buff *skb, bool sent, struct packet *packet)
{
	u8 *header = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;

	packet->skb = skb;
	packet->header = header;
	packet->sent = sent;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (header + 20 > end)
			return 0;
		packet->ipv6 = 0;
		packet->protocol = header[9];
		packet->transport = (header[0] & 15) * 4;
		return 1;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (header + 40 > end)
			return 0;
		packet->ipv6 = 1;
		packet->protocol = header[6];
		packet->transport = 40;
		pass_over_extension_headers(packet);
		return 1;
	}
	return 0;
}

/* Writes the ends as the headers name them, the sender first. */
static __always_inline void write_packet_addresses(struct packet *packet, u8 *source, u8 *destination)
{
	if (packet->ipv6) {
		__builtin_memcpy(source, packet->header + 8, 16);
		__builtin_memcpy(destination, packet->header + 24, 16);
	} else {
		write_mapped_ipv4(source, *(u32 *)(packet->header + 12));
		write_mapped_ipv4(destination, *(u32 *)(packet->header + 16));
	}
}
