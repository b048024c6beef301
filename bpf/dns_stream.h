/* DNS over TCP (RFC 7766): where messages begin in a stream, each after two bytes with its length. */
#pragma once

#define DNS_MOST_STREAMS (1 << 13)
#define DNS_MOST_MESSAGES 128 /* that are looked at in a packet, which the kernel joins from many segments */
#define TCP_HEADER_BYTES 20

u64 dns_streams_lost; /* how often it was not known any more where the next message begins */

struct dns_stream {
	u32 next; /* sequence number: where the next message begins, or the next piece of the one that is held */
	u16 held; /* bytes of it, those of its length included */
	u16 following; /* whether that is certain */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DNS_MOST_STREAMS);
	__type(key, u64);
	__type(value, struct dns_stream);
} dns_streams SEC(".maps");

/* What is held begins as this. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct dns_held);
} dns_held_nothing SEC(".maps");

static __always_inline u64 dns_stream_key(u64 cookie, bool sent)
{
	return cookie << 1 | sent;
}

static __always_inline struct dns_held *dns_held_of(u64 key)
{
	struct dns_held *held = bpf_map_lookup_elem(&dns_held, &key), *nothing;
	u32 zero = 0;

	if (held)
		return held;
	nothing = bpf_map_lookup_elem(&dns_held_nothing, &zero);
	if (!nothing)
		return NULL;
	bpf_map_update_elem(&dns_held, &key, nothing, BPF_NOEXIST);
	return bpf_map_lookup_elem(&dns_held, &key);
}

static __always_inline void dns_lose_stream(struct dns_stream *stream)
{
	__sync_fetch_and_add(&dns_streams_lost, 1);
	stream->held = 0;
	stream->following = 0;
}

/* Where nothing was sent, or received, before: there the first message begins. */
static __always_inline void dns_begin_stream(struct bpf_sock *sk, bool sent, u32 sequence, struct dns_stream *stream)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	stream->next = sequence;
	if (!tcp)
		return;
	if (sent) {
		stream->following = tcp->bytes_acked <= 1 && tcp->snd_una == sequence; /* SYN counts as one */
	} else if (!tcp->bytes_received) {
		stream->following = 1;
		stream->next = tcp->rcv_nxt;
	}
}

/* What is to be taken, beside the number of bytes that belong to the message: see dns_next(). */
enum dns_next {
	DNS_BYTES = 0xffffff,
	DNS_TAKE_FROM_PACKET = 1 << 24,
	DNS_TAKE_HELD = 1 << 25,
};

/* Adds what the packet has of a message that comes in pieces, from `at` on. */
static __always_inline u64 dns_hold(struct __sk_buff *skb, u64 key, struct dns_stream *stream, u64 at, u64 left)
{
	struct dns_held *pieces = dns_held_of(key);
	u64 held = stream->held, wanted = 2, whole = 0, size;

	if (!pieces)
		return 0;
	if (held >= 2) {
		whole = 2 + (pieces->bytes[0] << 8 | pieces->bytes[1]);
		wanted = whole < DNS_MOST_HELD_BYTES ? whole : DNS_MOST_HELD_BYTES;
	}
	size = wanted - held;
	if (size > left)
		size = left;
	if (held >= DNS_MOST_HELD_BYTES || !size)
		return 0;
	if (bpf_skb_load_bytes(skb, at, pieces->bytes + held, from_one_to(DNS_MOST_HELD_BYTES, size)))
		return 0;
	stream->held = held + size;
	if (!whole || held + size < wanted)
		return size;
	stream->held = 0;
	return (size + whole - wanted) | DNS_TAKE_HELD;
}

/* Returns how many bytes belong to the message, or to the piece of one, that begins at `at`, those in later packets
 * included, and whether it is to be taken now; 0 where it is not known where the next one begins. */
__attribute__((noinline)) u64 dns_next(struct __sk_buff *skb, u64 key, u64 at, u64 end)
{
	struct dns_stream *stream;
	u64 left = end - at, whole;
	u8 prefix[2];

	if (!dns_watched)
		return 0;
	stream = bpf_map_lookup_elem(&dns_streams, &key);
	if (!stream || at >= end)
		return 0;
	if (stream->held || (stream->following && left < sizeof(prefix)))
		return dns_hold(skb, key, stream, at, left);
	if (bpf_skb_load_bytes(skb, at, prefix, sizeof(prefix)))
		return 0;
	whole = sizeof(prefix) + (prefix[0] << 8 | prefix[1]);
	if (stream->following && left < whole && left < DNS_MOST_HELD_BYTES)
		return dns_hold(skb, key, stream, at, left);
	return whole | DNS_TAKE_FROM_PACKET;
}

/* Takes the messages in a packet whose TCP header is at `transport`. */
__attribute__((noinline)) u64 dns_take_segment(struct __sk_buff *skb, u64 transport, u64 sent)
{
	u64 key = dns_stream_key(bpf_get_socket_cookie(skb), sent);
	u64 at, end = skb->len, next, whole, taken;
	struct dns_stream *stream, new = {};
	u8 header[TCP_HEADER_BYTES];
	struct bpf_sock *sk;
	u32 begin; /* sequence number of what would be at offset 0 */
	s32 passed;
	int i;

	if (!dns_watched)
		return 0;
	if (bpf_skb_load_bytes(skb, transport, header, sizeof(header)))
		return 0;
	at = transport + (header[12] >> 4) * 4;
	if (at >= end)
		return 0;
	begin = bpf_ntohl(*(u32 *)(header + 4)) - at;
	stream = bpf_map_lookup_elem(&dns_streams, &key);
	if (!stream) {
		sk = skb->sk;
		if (!sk)
			return 0;
		dns_begin_stream(sk, sent, begin + at, &new);
		bpf_map_update_elem(&dns_streams, &key, &new, BPF_NOEXIST);
		stream = bpf_map_lookup_elem(&dns_streams, &key);
		if (!stream)
			return 0;
	}
	passed = stream->next - begin - at;
	if (passed < 0) /* what is between was overtaken, or lost here */
		dns_lose_stream(stream);
	else
		at += passed; /* the rest of a message, or sent again */
	if (at >= end)
		return 0;
	for (i = 0; i < DNS_MOST_MESSAGES && at < end; i++) {
		next = dns_next(skb, key, at, end);
		whole = next & DNS_BYTES;
		taken = 0;
		if (next & DNS_TAKE_FROM_PACKET) {
			taken = dns_take(skb, 0, at + 2, whole < end - at ? at + whole : end, dns_way(transport, sent));
		} else if (next & DNS_TAKE_HELD) {
			taken = dns_take(skb, key, 2, DNS_MOST_HELD_BYTES, dns_way(transport, sent));
			bpf_map_delete_elem(&dns_held, &key);
		}
		if (taken)
			stream->following = 1;
		if (!whole || !stream->following) /* perhaps one begins where the next packet does */
			break;
		at += whole;
	}
	if (at < end) {
		dns_lose_stream(stream);
		at = end;
	}
	stream->next = begin + at;
	return 0;
}

/* Takes the messages in a packet whose UDP header is at `transport`: several where the socket had it cut into segments. */
__attribute__((noinline)) u64 dns_take_datagram(struct __sk_buff *skb, u64 transport, u64 sent)
{
	u64 at = transport + UDP_HEADER_BYTES, end = skb->len, size;
	int i;

	if (!dns_watched)
		return 0;
	for (i = 0; i < DNS_MOST_SEGMENTS && at < end; i++) {
		size = end - at;
		if (skb->gso_size && size > skb->gso_size)
			size = skb->gso_size;
		dns_take(skb, 0, at, at + size, dns_way(transport, sent));
		at += size;
	}
	return 0;
}

/* Takes the packet if it is from or to the port of DNS. */
static __always_inline void take_dns(struct packet *packet)
{
	struct __sk_buff *skb = packet->skb;
	struct bpf_sock *sk = skb->sk;
	u16 local, remote;
	u32 ports; /* the destination's in its upper half */

	if (!sk)
		return;
	local = sk->src_port;
	remote = bpf_ntohs(sk->dst_port);
	if (packet->protocol == IPPROTO_TCP) {
		if (local == DNS_PORT || remote == DNS_PORT)
			dns_take_segment(skb, packet->transport, packet->sent);
	} else if (packet->protocol == IPPROTO_UDP) {
		if (!remote && local != DNS_PORT) {
			if (bpf_skb_load_bytes(skb, packet->transport, &ports, sizeof(ports)))
				return;
			remote = bpf_ntohs((u16)(packet->sent ? ports >> 16 : ports));
		}
		if (local == DNS_PORT || remote == DNS_PORT)
			dns_take_datagram(skb, packet->transport, packet->sent);
	}
}
