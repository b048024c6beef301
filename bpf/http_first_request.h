/* HTTP: the first request of a socket, and its response.
 *
 * Where each request has a connection of its own, sockets have no other, and what http_socket.h keeps of one costs more
 * to make and to free than all else that is done for it. So a socket has that from its second request on. Before, a
 * request that is whole and alone in its packet has a place in a table, from where any other packet that looks like a
 * head, but for its response, leads on to there. A socket whose place another one has goes there at once, unless all of
 * the other one was told long ago. */
#pragma once

#include "http_steps.h"

#define PLACES_BITS 12
#define SPREAD 0x9e3779b97f4a7c15ULL /* 2^64 / the golden ratio: cookies in a row come to lie far from each other */
#define MOST_LONE_CHUNKS 32

/* For so long after its request a socket keeps its place though all was told; tests set it before load. */
const volatile u64 http_place_kept_ns = 3600 * 1000000000ULL;

u64 http_places_taken; /* sockets whose first request found its place taken */

/* What is known of the request and the response, so that one instruction changes it. Until it is answered, when it was
 * asked, in ns, less three bits; then the status from FIRST_STATUS on, 0 once it was told, and the latency in ns from
 * FIRST_LATENCY on. */
enum {
	FIRST_HEAD = ASKED_HEAD,
	FIRST_TOLD = 2, /* the request was */
	FIRST_ANSWERED = 4,
	FIRST_MARKS = 7,
	FIRST_STATUS = 3,
	FIRST_LATENCY = 13,
};
#define LONGEST_FIRST_LATENCY (~0ULL >> FIRST_LATENCY)

struct http_first_request {
	u64 exchange; /* 0: there is nothing yet, or no more */
	u32 asks; /* sequence number where the next request begins */
	u32 answers; /* and where the response does */
	u64 asked_ns;
	struct http_record record; /* how it is told; the cookie is 0 where nobody has the place */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << PLACES_BITS);
	__type(key, u32);
	__type(value, struct http_first_request);
} http_first_requests SEC(".maps");

static __always_inline struct http_first_request *place_of(u64 cookie)
{
	u32 place = cookie * SPREAD >> (64 - PLACES_BITS);

	return bpf_map_lookup_elem(&http_first_requests, &place);
}

static __always_inline bool has_place(struct http_first_request *first, u64 cookie)
{
	return first && cookie && first->record.cookie == cookie;
}

/* Another processor may have left it for the same socket, and have given it to the next one. */
static __always_inline void leave_place(struct http_first_request *first, u64 cookie)
{
	__sync_val_compare_and_swap(&first->record.cookie, cookie, 0);
}

/* What an exchange is once all of it that there is has been told. */
static __always_inline u64 told(u64 exchange)
{
	return exchange & FIRST_ANSWERED ? FIRST_ANSWERED | FIRST_TOLD : exchange | FIRST_TOLD;
}

static __always_inline u32 status_of(u64 exchange)
{
	return exchange & FIRST_ANSWERED ? exchange >> FIRST_STATUS & 1023 : 0;
}

/* Returns the method of a request that is all that the packet holds, its body included; else 0. */
__attribute__((noinline)) int http_lone_method(struct __sk_buff *skb, u32 offset, u32 end)
{
	struct http_search search = { .offset = offset, .end = end };
	struct http_first first;
	u32 method, i;

	if (!http_watched || !load_chunk(skb, &search) || search.loaded < HTTP_FIRST)
		return 0;
	first.low = search.words[0];
	first.high = (u32)search.words[1];
	method = request_of(&first, HTTP_FIRST);
	if (!method || method == METHOD_CONNECT)
		return 0;
	search.wants_fields = method == METHOD_WITH_BODY;
	for (i = 0; i < MOST_LONE_CHUNKS; i++)
		if (http_search_chunk(skb, &search))
			break;
	if (!search.found || (search.wants_fields && search.fields != HTTP_HAS_LENGTH))
		return 0;
	return search.offset + search.length == end ? method : 0;
}

/* Gives a socket a place; returns whether it has it. One whose request was answered, and told, may hold it no more: the
 * kernel runs no program while it runs already on the same processor, so that the ends of some sockets are not seen. */
static __always_inline bool take_place(struct http_first_request *place, u64 cookie, u64 now)
{
	u64 holder = __sync_val_compare_and_swap(&place->record.cookie, 0, cookie);

	if (!holder)
		return 1;
	return place->exchange == told(FIRST_ANSWERED) && now > place->asked_ns + http_place_kept_ns &&
	       __sync_val_compare_and_swap(&place->record.cookie, holder, cookie) == holder;
}

/* Gives a request a place; returns whether it has one. */
static __always_inline bool take_first_request(struct __sk_buff *skb, struct bpf_sock *sk, struct http_packet *packet,
					       struct http_first_request *place, u64 cookie)
{
	u32 method = http_lone_method(skb, packet->offset, packet->end);
	struct tcp_sock *tcp;
	u64 asked;

	if (!method || !place)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	asked = time_of_packet(skb, packet) & ~(u64)FIRST_MARKS;
	if (!take_place(place, cookie, asked)) {
		__sync_fetch_and_add(&http_places_taken, 1);
		return 0;
	}
	place->asks = packet->base + packet->end;
	place->answers = packet->acknowledged;
	write_ends(&place->record, tcp);
	place->record.client = packet->sent;
	place->asked_ns = asked;
	__sync_lock_test_and_set(&place->exchange, method == METHOD_HEAD ? asked | FIRST_HEAD : asked);
	return 1;
}

/* Takes a packet that looks like a response; returns whether there is no more to it. */
static __always_inline bool take_first_response(struct __sk_buff *skb, struct http_packet *packet,
						struct http_first_request *first)
{
	u32 length, status, i;
	u64 before, since, now, latency;
	struct http_first begin;

	if (!first->exchange || first->exchange & FIRST_ANSWERED)
		return 1; /* the body of the response */
	length = load_first(skb, packet->offset, packet->end, HTTP_FIRST, &begin);
	status = response_of(&begin, length);
	if (!status)
		return 1;
	if (length < HTTP_FIRST || status / 100 == 1 || packet->base + packet->begin != first->answers)
		return 0;
	now = time_of_packet(skb, packet);
	for (i = 0; i < 2; i++) { /* meanwhile it may be told once that it was asked */
		before = first->exchange;
		if (!before || before & FIRST_ANSWERED)
			return 1;
		since = before & ~(u64)FIRST_MARKS;
		latency = now > since ? now - since : 0;
		if (latency > LONGEST_FIRST_LATENCY)
			latency = LONGEST_FIRST_LATENCY;
		latency = latency << FIRST_LATENCY | status << FIRST_STATUS | FIRST_ANSWERED | (before & FIRST_TOLD);
		if (__sync_val_compare_and_swap(&first->exchange, before, latency) == before)
			return 1;
	}
	return 1;
}

/* Takes a packet that looks like a head, on a socket that has a place; returns whether there is no more to it. */
static __always_inline bool take_after_first_request(struct __sk_buff *skb, struct http_packet *packet,
						     struct http_first_request *first, u32 what)
{
	if (packet->sent != first->record.client)
		return take_first_response(skb, packet, first);
	return what == BEGINS_RESPONSE || (s32)(packet->base + packet->end - first->asks) <= 0; /* sent again */
}

/* Moves what is known to where the following requests are counted. */
static __always_inline void move_first_request(struct http_first_request *first, u64 cookie, struct http_socket *http)
{
	u64 exchange = __sync_lock_test_and_set(&first->exchange, 0);

	if (!exchange) /* another processor does it, or told it at the socket's end */
		return;
	http->client = first->record.client;
	http->asked = 1;
	expect(&http->asks, first->asks);
	http->asks.bodyless = 1;
	expect(&http->answers, first->answers);
	if (!(exchange & FIRST_TOLD)) {
		http->requests = 1;
		http->changed = REQUESTS_CHANGED;
	}
	if (exchange & FIRST_ANSWERED) {
		http->answered = 1;
		http->answers.mode = HTTP_UNKNOWN;
		if (status_of(exchange)) {
			count_status(http, status_of(exchange));
			count_latency(http, exchange >> FIRST_LATENCY);
		}
	} else {
		http->times[0] = (exchange & ~(u64)FIRST_MARKS) | (exchange & FIRST_HEAD);
	}
	leave_place(first, cookie);
}
