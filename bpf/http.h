/* HTTP/1: requests, statuses and latencies of sockets that speak it.
 *
 * Only those have an entry, from their second request on. Requests are followed from head to head, so that neither what a
 * body holds nor what is sent again counts. Where a response begins the request says: its acknowledgement number is where
 * the server goes on. What follows the head of a response is looked at only on sockets that pipeline. */
#pragma once

#include "http_first_request.h"

#define MOST_HEADERS 0x3fff /* bytes before the TCP header */
#define MOST_STEPS 256 /* heads and bodies of one packet */

u64 http_sockets_untracked; /* no memory for an entry */

/* Returns whether the socket has received what is missing before this packet: then it was not followed. */
static __always_inline bool has_passed(struct bpf_sock *sk, bool sent, u32 position)
{
	struct bpf_tcp_sock *tcp;

	if (sent) /* what is sent first comes in order */
		return 1;
	sk = bpf_sk_fullsock(sk);
	tcp = sk ? bpf_tcp_sock(sk) : NULL;
	return !tcp || (s32)(tcp->rcv_nxt - position) > 0;
}

/* Finds where in this packet the stream goes on; returns whether it does. */
static __always_inline bool find_position(struct __sk_buff *skb, struct bpf_sock *sk, struct http_socket *http,
					  struct http_stream *stream, struct http_packet *packet)
{
	u32 sequence = packet->base + packet->begin, end = packet->base + packet->end, gap;
	bool waits = http->asked != http->answered, withheld;

	if ((s32)(end - stream->position) <= 0)
		return 0; /* sent again */
	gap = sequence - stream->position;
	if (stream->mode != HTTP_UNKNOWN && (s32)gap > 0) {
		if (stream->mode == HTTP_HEAD && stream->skip >= gap) {
			stream->skip -= gap;
			stream->fields = 0;
			stream->position = sequence;
		} else if (has_passed(sk, packet->asks == http->client, stream->position)) {
			stream->mode = HTTP_UNKNOWN;
		} else {
			return 0; /* what is missing will come */
		}
	}
	/* A client that asked whether to send the body (RFC 9110, 10.1.1), and was told not to, may go on without it. */
	withheld = packet->asks && stream->mode == HTTP_HEAD && stream->skip && stream->fields & HTTP_HAS_LENGTH;
	if (stream->mode == HTTP_UNKNOWN || stream->mode == HTTP_CHUNKED || withheld) {
		if ((s32)(sequence - stream->position) >= 0 && waits != packet->asks &&
		    http_begins(skb, packet->offset, packet->end, packet->asks))
			expect(stream, sequence);
		else if (stream->mode == HTTP_UNKNOWN)
			stream->position = end;
	}
	packet->offset = stream->position - packet->base;
	return stream->mode != HTTP_UNKNOWN;
}

static __always_inline bool is_watched_socket(struct bpf_sock *sk)
{
	struct tcp_sock *tcp;

	if (!network_namespaces_named)
		return 1;
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp && is_watched(((struct sock *)tcp)->__sk_common.skc_net.net->ns.inum);
}

/* Returns whether a response answers nothing: so a server may tell that it closes an idle connection (RFC 9110, 15.5.9). */
static __always_inline bool is_unasked(struct bpf_sock *sk, bool sent)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

	return tcp && !(sent ? tcp->bytes_received : tcp->bytes_sent);
}

/* Makes an entry for a socket on which something that looks like a head begins with this packet, unless that is its first
 * request, or the response to it. */
static __always_inline struct http_socket *begin_http(struct __sk_buff *skb, struct bpf_sock *sk,
						      struct http_packet *packet)
{
	u32 what = what_begins(skb, packet->offset, packet->end);
	struct http_first_request *place, *first;
	struct http_socket *http;
	u64 cookie;

	if (!what)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->state == TCP_LISTEN || sk->state == TCP_CLOSE) /* what one that ended gets TCP lets go */
		return NULL;
	cookie = bpf_get_socket_cookie(skb);
	place = place_of(cookie);
	first = has_place(place, cookie) ? place : NULL;
	if (first) {
		if (take_after_first_request(skb, packet, first, what))
			return NULL;
	} else if (what == BEGINS_EMPTY_LINE || !is_watched_socket(sk)) {
		return NULL;
	} else if (what == BEGINS_RESPONSE ? is_unasked(sk, packet->sent) :
					     take_first_request(skb, sk, packet, place, cookie)) {
		return NULL;
	}
	http = bpf_sk_storage_get(&http_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!http) {
		__sync_fetch_and_add(&http_sockets_untracked, 1);
		return NULL;
	}
	if (first) {
		move_first_request(first, cookie, http);
		return http;
	}
	http->client = packet->sent == (what == BEGINS_REQUEST);
	if (what == BEGINS_REQUEST) {
		expect(&http->asks, packet->base + packet->begin);
	} else { /* its request was before our time, or in the packet that opened the connection, which has no socket */
		expect(&http->asks, packet->acknowledged);
		expect(&http->answers, packet->base + packet->begin);
		http->asked = 1;
		http->requests = 1;
		http->changed = REQUESTS_CHANGED;
	}
	return http;
}

/* Follows a TCP segment, whose header begins at *transport*, in bytes of the packet. Not inlined: see http_step(). */
__attribute__((noinline)) int http_take_segment(struct __sk_buff *skb, u32 transport, u32 sent)
{
	struct http_packet packet = {};
	struct http_stream *stream;
	struct http_socket *http;
	struct tcp_header *tcp;
	struct bpf_sock *sk;
	u32 i;

	if (!http_watched || transport > MOST_HEADERS)
		return 0;
	tcp = (struct tcp_header *)((u8 *)(long)skb->data + transport);
	if ((u8 *)(tcp + 1) > (u8 *)(long)skb->data_end)
		return 0;
	packet.begin = packet.offset = transport + (tcp->data_offset >> 4) * 4;
	packet.end = skb->len;
	if (packet.begin >= packet.end || tcp->flags & TCP_SYN)
		return 0;
	sk = skb->sk;
	if (!sk)
		return 0;
	packet.base = bpf_ntohl(tcp->sequence) - packet.begin;
	packet.acknowledged = bpf_ntohl(tcp->acknowledged);
	packet.chunks_left = MOST_CHUNKS;
	packet.sent = sent;
	http = bpf_sk_storage_get(&http_sockets, sk, 0, 0);
	if (!http) {
		http = begin_http(skb, sk, &packet);
		if (!http)
			return 0;
	}
	if (http->over)
		return 0;
	packet.asks = sent == http->client;
	stream = packet.asks ? &http->asks : &http->answers;
	if (!packet.asks && !http->pipelines && http->asked == http->answered)
		return 0; /* the body of a response */
	if (!find_position(skb, sk, http, stream, &packet))
		return 0;
	for (i = 0; i < MOST_STEPS; i++)
		if (!http_step(skb, http, &packet))
			return 0;
	__sync_fetch_and_add(&http_packets_cut, 1);
	stream->mode = HTTP_UNKNOWN;
	stream->position = packet.base + packet.end;
	return 0;
}
