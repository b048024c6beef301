/* HTTP: the steps through a packet, each a head, what follows in it, or a chunked body. */
#pragma once

#include "http_heads.h"
#include "http_socket.h"

#define MOST_CHUNKS 256 /* of HTTP_CHUNK bytes: as much of a packet is searched for the ends of heads */

u64 http_heads_unknown; /* something else stood where a head was expected */
u64 http_requests_untimed; /* too many were unanswered */
u64 http_packets_cut; /* held more than MOST_STEPS or MOST_CHUNKS */

/* A packet on its way through the steps. */
struct http_packet {
	u32 begin; /* of the payload, in the packet */
	u32 offset; /* where it goes on */
	u32 end;
	u32 base; /* sequence number of offset 0 */
	u32 acknowledged;
	u32 chunks_left;
	bool asks;
	bool sent;
};

/* When the packet passes, by CLOCK_MONOTONIC. TCP read the clock when it sent it (EDT, 4.20); to read it again costs
 * as much as all else that is done for most packets. */
static __always_inline u64 time_of_packet(struct __sk_buff *skb, struct http_packet *packet)
{
	u64 departs = packet->sent ? skb->tstamp : 0;

	return departs ? departs : bpf_ktime_get_ns();
}

static __always_inline struct http_piece *piece_of(struct http_socket *http, struct http_packet *packet)
{
	return packet->asks ? &http->asks_piece : &http->answers_piece;
}

static __always_inline void expect(struct http_stream *stream, u32 position)
{
	stream->position = position;
	stream->mode = HTTP_HEAD;
	stream->skip = 0;
	stream->first_length = 0;
}

static __always_inline void request_begins(struct http_socket *http, struct http_packet *packet, u32 method, u64 now)
{
	u32 unanswered = http->asked - http->answered;

	if (unanswered)
		http->pipelines = 1;
	else if (!http->pipelines || http->answers.mode == HTTP_UNKNOWN)
		expect(&http->answers, packet->acknowledged);
	if (unanswered < PIPELINED) {
		now &= ~(u64)ASKED;
		if (method == METHOD_HEAD)
			now |= ASKED_HEAD;
		else if (method == METHOD_CONNECT)
			now |= ASKED_CONNECT;
		http->times[http->asked % PIPELINED] = now;
	} else {
		__sync_fetch_and_add(&http_requests_untimed, 1);
	}
	http->asked++;
	__sync_fetch_and_add(&http->requests, 1);
	mark_changed(http, REQUESTS_CHANGED);
	http->asks.bodyless = method != METHOD_WITH_BODY;
}

static __always_inline void response_begins(struct http_socket *http, u32 code, u64 now)
{
	struct http_stream *answers = &http->answers;
	u64 *slot, asked, since;

	answers->bodyless = 1;
	if (http->asked == http->answered || (code / 100 == 1 && code != 101))
		return;
	slot = &http->times[http->answered % PIPELINED];
	asked = *slot;
	*slot = 0;
	http->answered++;
	since = asked & ~(u64)ASKED;
	if (asked)
		count_latency(http, now > since ? now - since : 0); /* what paces the packets may have let it go early */
	count_status(http, code);
	if (code == 101 || (code / 100 == 2 && asked & ASKED_CONNECT))
		http->over = 1;
	answers->bodyless = code == 204 || code == 304 || asked & ASKED_HEAD;
}

static __always_inline bool looks_on(struct http_socket *http, u32 code)
{
	return http->pipelines || code / 100 == 1;
}

/* Reads how a head begins, and of a request what follows as well, since it is to be searched; returns how many bytes. */
static __always_inline u32 read_first(struct __sk_buff *skb, struct http_packet *packet, struct http_first *first,
				      struct http_search *search)
{
	if (!packet->asks)
		return load_first(skb, packet->offset, packet->end, HTTP_FIRST, first);
	search->offset = packet->offset;
	search->end = packet->end;
	if (!load_chunk(skb, search))
		return 0;
	first->low = search->words[0];
	first->high = (u32)search->words[1];
	return search->loaded < HTTP_FIRST ? search->loaded : HTTP_FIRST;
}

/* Adds bytes to the *have* ones of a head that began in a packet before; returns how many there are then. */
static __always_inline u32 read_more(struct __sk_buff *skb, u32 have, struct http_piece *piece,
				     struct http_packet *packet, struct http_first *first)
{
	u32 more;
	u64 low, high;

	if (have >= HTTP_FIRST)
		return 0;
	more = load_first(skb, packet->offset, packet->end, HTTP_FIRST - have, first);
	packet->offset += more;
	low = first->low;
	high = first->high;
	first->low = piece->first[0] | (u64)piece->first[1] << 32;
	first->high = piece->first[2];
	if (have >= 8) {
		first->high |= low << (have - 8) * 8;
	} else {
		first->low |= low << have * 8;
		first->high |= low >> (8 - have) * 8 | high << have * 8;
	}
	return have + more;
}

/* Skips an empty line before a request (RFC 9112, 2.2); returns whether there is one. */
static __always_inline bool skip_empty_line(struct http_stream *stream, struct http_packet *packet,
					    struct http_first *first, u32 length)
{
	if (length < 2 || !is_empty_line(first))
		return 0;
	packet->offset += 2;
	stream->position = packet->base + packet->offset;
	return 1;
}

/* Goes on where a head is expected; returns whether there is more to do in this packet. */
static __always_inline int step_head(struct __sk_buff *skb, struct http_socket *http, struct http_stream *stream,
				     struct http_packet *packet, struct http_search *search)
{
	u32 left = packet->end - packet->offset, length, what;
	struct http_piece *piece = piece_of(http, packet);
	struct http_first first;
	u64 now;

	if (stream->skip) {
		if (left > stream->skip)
			left = stream->skip;
		stream->skip -= left;
		stream->fields = 0;
		packet->offset += left;
		stream->position = packet->base + packet->offset;
		return packet->offset < packet->end;
	}
	length = stream->first_length ? read_more(skb, stream->first_length, piece, packet, &first) :
					read_first(skb, packet, &first, search);
	what = packet->asks ? request_of(&first, length) : response_of(&first, length);
	if (!what && packet->asks && !stream->first_length && skip_empty_line(stream, packet, &first, length))
		return packet->offset < packet->end;
	if (!what) {
		__sync_fetch_and_add(&http_heads_unknown, 1);
		stream->mode = HTTP_UNKNOWN;
		stream->first_length = 0;
		stream->position = packet->base + packet->end;
		if (!packet->asks) /* the request came while another response was on its way */
			http->pipelines = 1;
		else if (!http->asked) /* it looked like HTTP for some bytes only */
			http->over = 1;
		return 0;
	}
	now = stream->first_length ? piece->first_ns : time_of_packet(skb, packet);
	if (length < HTTP_FIRST) {
		piece->first[0] = first.low;
		piece->first[1] = first.low >> 32;
		piece->first[2] = first.high;
		stream->first_length = length;
		piece->first_ns = now;
		stream->position = packet->base + packet->end;
		return 0;
	}
	stream->first_length = 0;
	stream->fields = 0;
	stream->newline = packet->base + packet->offset - HTTP_FIRST;
	stream->carried = 0;
	if (packet->asks) {
		request_begins(http, packet, what, now);
	} else {
		response_begins(http, what, now);
		if (http->over)
			return 0;
		if (!looks_on(http, what)) {
			stream->mode = HTTP_UNKNOWN;
			stream->position = packet->base + packet->end;
			return 0;
		}
	}
	stream->mode = HTTP_INSIDE;
	return 1;
}

/* Keeps how the last line of a packet begins, if it may be a field that counts. */
static __always_inline void carry_line(struct __sk_buff *skb, struct http_stream *stream, struct http_piece *piece,
				       struct http_packet *packet, struct http_search *search)
{
	u32 length = packet->end - search->newline - 1, carried = search->carried, more = length - carried;

	if (length > LONGEST_FIELD || carried > LONGEST_FIELD || more > LONGEST_FIELD)
		return;
	if (more && bpf_skb_load_bytes(skb, packet->end - more, (u8 *)piece->line + carried,
				       from_one_to(MOST_CARRIED, more)))
		return;
	stream->carried = length;
}

/* Searches for the next blank line; returns whether it was found. */
static __always_inline bool find_blank_line(struct __sk_buff *skb, struct http_stream *stream, struct http_piece *piece,
					    struct http_packet *packet, struct http_search *search)
{
	u32 i;

	search->offset = packet->offset;
	search->end = packet->end;
	search->newline = stream->newline - packet->base;
	search->before = stream->before - packet->base;
	search->carried = stream->carried;
	if (search->carried)
		__builtin_memcpy(search->line, piece->line, sizeof(search->line));
	search->length = stream->skip;
	search->fields = stream->fields;
	search->wants_fields = stream->mode == HTTP_INSIDE && !stream->bodyless;
	for (i = 0; i < MOST_CHUNKS && packet->chunks_left; i++) {
		packet->chunks_left--;
		if (http_search_chunk(skb, search))
			break;
	}
	stream->newline = search->newline + packet->base;
	stream->before = search->before + packet->base;
	stream->carried = 0;
	if (!search->found && search->wants_fields)
		carry_line(skb, stream, piece, packet, search);
	stream->skip = search->length;
	stream->fields = search->fields;
	packet->offset = search->offset;
	if (!search->found && packet->offset < packet->end) {
		__sync_fetch_and_add(&http_packets_cut, 1);
		stream->mode = HTTP_UNKNOWN;
		packet->offset = packet->end;
	}
	stream->position = packet->base + packet->offset;
	return search->found;
}

/* Goes on in a head. */
static __always_inline int step_inside(struct __sk_buff *skb, struct http_stream *stream, struct http_piece *piece,
					struct http_packet *packet, struct http_search *search)
{
	if (!find_blank_line(skb, stream, piece, packet, search))
		return 0;
	if (stream->bodyless) {
		stream->mode = HTTP_HEAD;
		stream->skip = 0;
	} else if (stream->fields == HTTP_HAS_LENGTH) {
		stream->mode = HTTP_HEAD;
	} else {
		stream->mode = !packet->asks && stream->fields & HTTP_HAS_CODING ? HTTP_CHUNKED : HTTP_UNKNOWN;
		if (stream->mode == HTTP_UNKNOWN)
			stream->position = packet->base + packet->end;
		stream->skip = 0;
	}
	return packet->offset < packet->end && stream->mode != HTTP_UNKNOWN;
}

static __always_inline int step_chunked(struct __sk_buff *skb, struct http_stream *stream, struct http_piece *piece,
					struct http_packet *packet, struct http_search *search)
{
	if (!find_blank_line(skb, stream, piece, packet, search))
		return 0;
	if (is_last_chunk(skb, packet->begin, search)) {
		stream->mode = HTTP_HEAD;
		stream->skip = 0;
	}
	return packet->offset < packet->end;
}

/* Not inlined: the verifier looks at it once, however often it is called. Returns whether there is more to do. */
__attribute__((noinline)) int http_step(struct __sk_buff *skb, struct http_socket *http, struct http_packet *packet)
{
	struct http_search search = {};
	struct http_stream *stream;

	if (!http_watched || !http || !packet)
		return 0;
	stream = packet->asks ? &http->asks : &http->answers;
	if (stream->mode == HTTP_HEAD && !step_head(skb, http, stream, packet, &search))
		return 0;
	if (stream->mode == HTTP_INSIDE)
		return step_inside(skb, stream, piece_of(http, packet), packet, &search);
	if (stream->mode == HTTP_CHUNKED)
		return step_chunked(skb, stream, piece_of(http, packet), packet, &search);
	return stream->mode == HTTP_HEAD;
}
