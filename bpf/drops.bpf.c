// Packets that the kernel drops: how many and how large, by flow and reason. It runs where one is dropped, and nowhere else.
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "records.h"
#include "sockets.h"
#include "extension_headers.h"

#define MOST_DROP_ENTRIES (1 << 15) /* between two polls, each 150 bytes while it is used */
#define NO_REASON 2 /* SKB_DROP_REASON_NOT_SPECIFIED of kernels without reasons */
#define OF_SUBSYSTEMS 0x10000 /* from here on reasons are those of subsystems: its number << 16 | the reason's */
#define FIRST_OF_SUBSYSTEMS 512 /* what they are here: 512 | the subsystem's number << 6 | the reason's */
#define LAST_OF_SUBSYSTEM 63
#define TCP_DATA_OFFSET 12 /* where these are in the header (RFC 9293, 3.1) */
#define TCP_FLAGS 13
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4

char LICENSE[] SEC("license") = "GPL";

const struct drop_key *drop_key; /* puts the structs into the object's BTF */
const struct drop_counts *drop_counts;

/* How many flows and reasons are told apart between two polls: the reader moves the limit on with each. */
u64 drops_entries_limit;
u64 drops_entries_added;
u64 drops_of_other_flows; /* packets that are told without their flow since there were too many */
u64 drops_untracked; /* packets for which there was no room at all */

struct drops_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_DROP_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct drop_key);
	__type(value, struct drop_counts);
} drops_0 SEC(".maps"), drops_1 SEC(".maps");

/* The map that is counted in, exchanged by the reader (kernel_collector/bpf/exchanged_maps.py). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct drops_map);
} drops SEC(".maps") = {
	.values = { &drops_0 },
};

/* Writes the ports of a TCP or UDP packet; returns whether the packet tells them. */
static __always_inline bool read_ports(struct drop_key *key, u8 protocol, u8 *transport)
{
	u16 ports[2];

	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) ||
	    bpf_probe_read_kernel(ports, sizeof(ports), transport))
		return 0;
	key->transport = protocol;
	key->source_port = bpf_ntohs(ports[0]);
	key->destination_port = bpf_ntohs(ports[1]);
	return 1;
}

static __always_inline bool read_ipv4(struct drop_key *key, u8 *at)
{
	u8 header[20];

	if (bpf_probe_read_kernel(header, sizeof(header), at) || header[0] >> 4 != 4)
		return 0;
	if (*(u16 *)(header + 6) & bpf_htons(0x1fff)) /* a later fragment has no ports */
		return 0;
	if (!read_ports(key, header[9], at + (header[0] & 15) * 4))
		return 0;
	write_mapped_ipv4(key->source_address, *(u32 *)(header + 12));
	write_mapped_ipv4(key->destination_address, *(u32 *)(header + 16));
	return 1;
}

static __always_inline bool read_ipv6(struct drop_key *key, u8 *at)
{
	u8 header[40], extension[8], protocol;
	u32 offset = sizeof(header);
	int i;

	if (bpf_probe_read_kernel(header, sizeof(header), at) || header[0] >> 4 != 6)
		return 0;
	protocol = header[6];
	for (i = 0; i < MOST_EXTENSION_HEADERS && is_extension_header(protocol); i++) {
		if (bpf_probe_read_kernel(extension, sizeof(extension), at + offset))
			return 0;
		if (protocol == IPPROTO_FRAGMENT && *(u16 *)(extension + 2) & bpf_htons(0xfff8))
			return 0;
		offset += protocol == IPPROTO_FRAGMENT ? 8 : (extension[1] + 1) * 8;
		protocol = extension[0];
	}
	if (!read_ports(key, protocol, at + offset))
		return 0;
	__builtin_memcpy(key->source_address, header + 8, 16);
	__builtin_memcpy(key->destination_address, header + 24, 16);
	return 1;
}

static __always_inline u32 segments(struct sk_buff *skb)
{
	struct skb_shared_info *shared = (void *)(skb->head + skb->end);
	u16 count = BPF_CORE_READ(shared, gso_segs);

	return count ? count : 1;
}

/* The entry of a flow, or where there are too many that of all others; NULL where there is no room. */
static __always_inline struct drop_counts *entry_of(void *counted, struct drop_key *key, u64 socket, u32 packets)
{
	struct drop_counts new = { .socket = socket };
	struct drop_counts *entry = bpf_map_lookup_elem(counted, key);

	if (entry)
		return entry;
	if (drops_entries_added >= drops_entries_limit) {
		__builtin_memset(key->source_address, 0, sizeof(key->source_address));
		__builtin_memset(key->destination_address, 0, sizeof(key->destination_address));
		key->source_port = key->destination_port = 0;
		new.socket = 0;
		__sync_fetch_and_add(&drops_of_other_flows, packets);
		entry = bpf_map_lookup_elem(counted, key);
		if (entry)
			return entry;
	}
	bpf_map_update_elem(counted, key, &new, BPF_NOEXIST);
	__sync_fetch_and_add(&drops_entries_added, 1);
	return bpf_map_lookup_elem(counted, key); /* perhaps another processor's */
}

/* The number of NOT_SPECIFIED: those before it are none of drops. It was 1 until consumed packets got that (Linux 6.2). */
static __always_inline u32 no_reason(void)
{
	if (!bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED))
		return NO_REASON;
	return bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED);
}

static __always_inline u32 reason_of(u64 *arguments)
{
	u32 reason, number;

	if (!bpf_core_type_exists(enum skb_drop_reason)) /* before Linux 5.17 (c504e5c2f964) */
		return NO_REASON;
	reason = arguments[2];
	if (reason < OF_SUBSYSTEMS)
		return reason;
	number = reason & (OF_SUBSYSTEMS - 1);
	if (number > LAST_OF_SUBSYSTEM)
		number = LAST_OF_SUBSYSTEM;
	return FIRST_OF_SUBSYSTEMS | (reason >> 16 & 7) << 6 | number;
}

/* Whether the kernel tells which socket a packet is for: since Linux 6.11 (c53795d48ee8). */
static __always_inline bool tells_receiver(void)
{
	return bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk);
}

/* The socket that a packet is for, or from. */
static __always_inline struct sock *socket_of(struct sk_buff *skb, u64 *arguments)
{
	struct sock *sk = NULL;

	if (tells_receiver())
		sk = (struct sock *)arguments[3];
	return sk ? sk : skb->sk;
}

/* Returns whether a TCP segment has a payload. */
static __always_inline bool has_payload(struct sk_buff *skb)
{
	u8 *header = skb->head + skb->transport_header, words;

	return !bpf_probe_read_kernel(&words, sizeof(words), header + TCP_DATA_OFFSET) &&
	       skb->len + (u32)(skb->data - header) > (words >> 4) * 4;
}

/* Returns the flags of a TCP segment; all where they cannot be read. */
static __always_inline u8 flags_of(struct sk_buff *skb)
{
	u8 flags;

	return bpf_probe_read_kernel(&flags, sizeof(flags), skb->head + skb->transport_header + TCP_FLAGS) ? 0xff : flags;
}

/* Returns the number of the reason for what comes before the window; before Linux 6.6 (b44693495af8) it is that for what
 * comes after it as well. */
static __always_inline u32 before_the_window(void)
{
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_TCP_OLD_SEQUENCE))
		return bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TCP_OLD_SEQUENCE);
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_TCP_INVALID_SEQUENCE))
		return bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TCP_INVALID_SEQUENCE);
	return 0; /* no drop's */
}

/* Returns whether a packet asks by a sequence number that has passed whether its receiver is still there, or has room
 * again (RFC 9293, 3.8.4 and 3.8.6.1), as it does on each idle connection with SO_KEEPALIVE. It is answered. */
static __always_inline bool is_probe(struct sk_buff *skb, struct drop_key *key)
{
	return key->reason == before_the_window() && key->transport == IPPROTO_TCP &&
	       !(flags_of(skb) & (TCP_SYN | TCP_FIN | TCP_RST)) && !has_payload(skb);
}

/* What is in the receive queue of a TCP socket at its end, mostly the FIN, was received; it is freed as if dropped. So is
 * what a socket in TIME_WAIT takes without a complaint: the FIN of who closes second. Data it does not take: it answers
 * with a reset (of FIN_WAIT2 such a socket is what the kernel keeps once the program has closed it). And so is what only
 * acknowledges, of who has sent its FIN before (tcp_rcv_state_process). */
static __always_inline bool was_received(struct sk_buff *skb, struct sock *sk, u32 reason)
{
	u32 purge = no_reason();

	if (!sk)
		return 0;
	switch (sk->__sk_common.skc_state) {
	case TCP_TIME_WAIT:
		return reason == no_reason() && !has_payload(skb);
	case TCP_CLOSE_WAIT:
	case TCP_LAST_ACK:
	case TCP_CLOSING:
		return reason == no_reason() && sk->sk_protocol == IPPROTO_TCP && !has_payload(skb);
	}
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_QUEUE_PURGE))
		purge = bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_QUEUE_PURGE);
	/* Only whole sockets have that state: they have a protocol. */
	return (reason == purge || reason == no_reason()) && sk->__sk_common.skc_state == TCP_CLOSE &&
	       sk->sk_protocol == IPPROTO_TCP;
}

/* Returns whether a packet may be one that a socket received, where the kernel does not tell the socket: a FIN, as one in
 * TIME_WAIT takes, or what came as far as to a socket, which takes the device from it (tcp_v4_rcv). */
static __always_inline bool may_be_received(struct sk_buff *skb, struct sock *sk, struct drop_key *key)
{
	if (tells_receiver() || key->reason != no_reason() || key->transport != IPPROTO_TCP || has_payload(skb))
		return 0;
	return flags_of(skb) & TCP_FIN || (!sk && !skb->dev);
}

SEC("tp_btf/kfree_skb")
int packet_dropped(u64 *arguments)
{
	struct sk_buff *skb = (struct sk_buff *)arguments[0];
	u32 reason = reason_of(arguments), packets, bytes, zero = 0;
	struct drop_key key = {};
	struct drop_counts *entry;
	struct sock *sk;
	void *counted;
	u8 *header;
	bool told;

	/* Those of sockets that are not of a network (unix, netlink) have no protocol. */
	if (reason < no_reason() || !skb->protocol)
		return 0;
	sk = socket_of(skb, arguments);
	if (was_received(skb, sk, reason))
		return 0;
	if (sk)
		key.network_namespace = sk->__sk_common.skc_net.net->ns.inum;
	else
		key.network_namespace = skb->dev->nd_net.net->ns.inum;
	if (!is_watched(key.network_namespace))
		return 0;
	key.reason = reason;
	header = skb->head + skb->network_header;
	bytes = skb->len + (u32)(skb->data - header); /* of the headers that were passed already as well */
	packets = segments(skb);
	told = skb->protocol == bpf_htons(ETH_P_IP)     ? read_ipv4(&key, header) :
	       skb->protocol == bpf_htons(ETH_P_IPV6) ? read_ipv6(&key, header) :
								0;
	if (!told)
		key.transport = key.source_port = key.destination_port = 0;
	if (may_be_received(skb, sk, &key) || is_probe(skb, &key))
		return 0;
	counted = bpf_map_lookup_elem(&drops, &zero);
	if (!counted)
		return 0;
	entry = entry_of(counted, &key, sk ? sk->__sk_common.skc_cookie.counter : 0, packets);
	if (!entry) {
		__sync_fetch_and_add(&drops_untracked, packets);
		return 0;
	}
	__sync_fetch_and_add(&entry->packets, packets);
	__sync_fetch_and_add(&entry->bytes, bytes);
	return 0;
}
