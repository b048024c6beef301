/* How heads of HTTP/1 begin and end (RFC 9112), in bytes of packets. */
#pragma once

#define HTTP_FIRST 12 /* bytes that tell a request's method or a response's status; every head has more */
#define HTTP_CHUNK 64 /* bytes that are searched at once */
#define LONGEST_METHOD 10
#define LONGEST_REQUEST_LINE_CHUNKS 32
#define LAST_CHUNK 3 /* bytes of the line "0" that ends a chunked body, with CR and newline */
#define SHORTEST_FIELD 17 /* "Content-Length:0", with CR */
#define LONGEST_FIELD 39
#define LINE_WORDS 5     /* hold it */
#define MOST_CARRIED 64
#define VALUE 15         /* where that of Content-Length begins */
#define NEWLINES 0x0a0a0a0a0a0a0a0aULL
#define LOW_BITS 0x7f7f7f7f7f7f7f7fULL
#define ONES 0x0101010101010101ULL
#define CASE 0x2020202020202020ULL

enum {
	METHOD_BODYLESS = 1,
	METHOD_HEAD,
	METHOD_CONNECT,
	METHOD_WITH_BODY, /* perhaps */
};

enum {
	BEGINS_REQUEST = 1,
	BEGINS_RESPONSE,
	BEGINS_EMPTY_LINE, /* before a request, perhaps (RFC 9112, 2.2) */
};

enum {
	HTTP_HAS_LENGTH = 1,
	HTTP_HAS_CODING = 2,
};

/* The first bytes of what may be a head, in their order; 0 beyond what there is. */
struct http_first {
	u64 low;
	u64 high; /* four of them */
};

#define BYTES(a, b, c, d, e, f, g, h) \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 | \
	 (u64)(g) << 48 | (u64)(h) << 56)
#define FIRST_OF(count) (~0ULL >> (8 - (count)) * 8)

/* Returns how many of at most *most* bytes there were. */
static __always_inline u32 load_first(struct __sk_buff *skb, u32 offset, u32 end, u32 most, struct http_first *first)
{
	u32 count = end - offset;

	first->low = first->high = 0;
	if (count > most)
		count = most;
	if (count == 0 || count > HTTP_FIRST)
		return 0;
	if (bpf_skb_load_bytes(skb, offset, first, from_one_to(sizeof(*first), count)))
		return 0;
	return count;
}

static __always_inline bool is_upper(u8 byte)
{
	return byte >= 'A' && byte <= 'Z';
}

static __always_inline bool has_newline(u64 bytes)
{
	bytes ^= NEWLINES;
	return (bytes - ONES) & ~bytes & ~LOW_BITS; /* one of them is 0 */
}

/* A method of letters that are not those below: returns whether there is one, and a space. */
static __always_inline bool is_other_method(struct http_first *first)
{
	u64 bytes = first->low;
	u32 i;
	u8 byte;

	for (i = 0; i <= LONGEST_METHOD; i++) {
		byte = bytes;
		bytes >>= 8;
		if (i == 7)
			bytes = first->high;
		if (byte == ' ')
			return i >= 3;
		if (!is_upper(byte) && byte != '-')
			return 0;
	}
	return 0;
}

#define BEGINS_WITH(count, ...) (!((first->low ^ BYTES(__VA_ARGS__)) & FIRST_OF(count) & known))

/* Returns the method, also one that the bytes that there are may become; 0: it is none. */
static __always_inline u32 request_of(struct http_first *first, u32 length)
{
	u64 known = length >= 8 ? ~0ULL : (1ULL << length * 8) - 1;

	if (!is_upper(first->low) || has_newline(first->low) || has_newline(first->high)) /* no request's line is so short */
		return 0;
	if (BEGINS_WITH(4, 'G', 'E', 'T', ' ', 0, 0, 0, 0) || BEGINS_WITH(8, 'O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') ||
	    BEGINS_WITH(6, 'T', 'R', 'A', 'C', 'E', ' ', 0, 0))
		return METHOD_BODYLESS;
	if (BEGINS_WITH(5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0))
		return METHOD_HEAD;
	if (BEGINS_WITH(8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		return METHOD_CONNECT;
	if (BEGINS_WITH(5, 'P', 'O', 'S', 'T', ' ', 0, 0, 0) || BEGINS_WITH(4, 'P', 'U', 'T', ' ', 0, 0, 0, 0) ||
	    BEGINS_WITH(6, 'P', 'A', 'T', 'C', 'H', ' ', 0, 0) || BEGINS_WITH(7, 'D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
		return METHOD_WITH_BODY;
	return length == HTTP_FIRST && is_other_method(first) ? METHOD_WITH_BODY : 0;
}

static __always_inline bool is_digit(u8 byte)
{
	return byte >= '0' && byte <= '9';
}

/* Returns the status, 1 where the bytes that there are may become that of a response; 0: it is none. */
static __always_inline u32 response_of(struct http_first *first, u32 length)
{
	u64 known = length >= 8 ? ~0ULL : (1ULL << length * 8) - 1;
	u8 hundreds = first->high >> 8, tens = first->high >> 16, ones = first->high >> 24;

	if (!length || !BEGINS_WITH(7, 'H', 'T', 'T', 'P', '/', '1', '.', 0))
		return 0;
	if (length < HTTP_FIRST)
		return 1;
	if (!is_digit(first->low >> 56) || (u8)first->high != ' ' || !is_digit(hundreds) || !is_digit(tens) ||
	    !is_digit(ones) || hundreds == '0')
		return 0;
	return (hundreds - '0') * 100 + (tens - '0') * 10 + (ones - '0');
}

/* A search for the next blank line, through a packet. */
struct http_search {
	u64 line[LINE_WORDS];      /* how the first line begins, where that was in packets before */
	u64 words[HTTP_CHUNK / 8]; /* the bytes from offset on */
	u64 length;                /* of the body, by Content-Length */
	u32 loaded;                /* bytes in words; 0: they are to be loaded */
	u32 carried;               /* bytes in line */
	u32 offset;                /* where it goes on */
	u32 end;
	u32 newline; /* where the last one was */
	u32 before;  /* and the one before it */
	u32 last;    /* when found: the length of the line before the blank one */
	u8 fields;
	bool wants_fields;
	bool any_line; /* the next line's end suffices */
	bool found;    /* before offset */
};

/* Takes note of a field that says how long the body is, of the line from *begin* to *end*. */
__attribute__((noinline)) int http_read_field(struct __sk_buff *skb, u32 begin, u32 end, struct http_search *search)
{
	u32 length = end - begin, carried, more, i;
	u64 number = 0, name[2];
	u8 byte;

	if (!http_watched || !search || length < SHORTEST_FIELD || length > LONGEST_FIELD)
		return 0;
	carried = search->carried;
	more = length - carried;
	if (more > LONGEST_FIELD || carried > LONGEST_FIELD)
		return 0;
	if (more && bpf_skb_load_bytes(skb, end - more, (u8 *)search->line + carried, from_one_to(MOST_CARRIED, more)))
		return 0;
	name[0] = search->line[0] | CASE;
	name[1] = search->line[1] | CASE;
	if (name[0] == BYTES('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') &&
	    name[1] == BYTES('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n'))
		search->fields |= HTTP_HAS_CODING;
	if (name[0] != BYTES('c', 'o', 'n', 't', 'e', 'n', 't', '-') ||
	    (name[1] & FIRST_OF(7)) != BYTES('l', 'e', 'n', 'g', 't', 'h', ':', 0))
		return 0;
	for (i = VALUE; i < LONGEST_FIELD && i < length; i++) {
		byte = ((u8 *)search->line)[i];
		if (is_digit(byte))
			number = number * 10 + (byte - '0');
		else if (byte != ' ' && byte != '\t')
			break;
	}
	search->length = number;
	search->fields |= HTTP_HAS_LENGTH;
	return 0;
}

static __always_inline bool load_chunk(struct __sk_buff *skb, struct http_search *search)
{
	u32 count = search->end - search->offset;

	if (count >= HTTP_CHUNK) {
		count = HTTP_CHUNK;
		if (bpf_skb_load_bytes(skb, search->offset, search->words, HTTP_CHUNK))
			return 0;
	} else {
		__builtin_memset(search->words, 0, sizeof(search->words));
		if (count == 0 || bpf_skb_load_bytes(skb, search->offset, search->words, from_one_to(HTTP_CHUNK, count)))
			return 0;
	}
	search->loaded = count;
	return 1;
}

/* Searches the next HTTP_CHUNK bytes; returns whether the search is over: found, or the packet has no more. */
__attribute__((noinline)) int http_search_chunk(struct __sk_buff *skb, struct http_search *search)
{
	u64 word, marks, mark;
	u32 i, j, at;

	if (!http_watched || !search)
		return 1;
	if (!search->loaded && !load_chunk(skb, search))
		return 1;
	for (i = 0; i < HTTP_CHUNK / 8 && i * 8 < search->loaded; i++) {
		word = search->words[i] ^ NEWLINES;
		marks = ~(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS); /* 0x80 in each byte that was a newline */
		for (j = 0; j < 8 && marks; j++) {
			mark = marks & -marks;
			marks ^= mark;
			at = search->offset + i * 8 + (((mark - 1 & ONES) * ONES) >> 56) - 1;
			if (search->any_line || at - search->newline <= 2) {
				search->last = search->newline - search->before;
				search->before = search->newline;
				search->newline = at;
				search->offset = at + 1;
				search->found = 1;
				return 1;
			}
			if (search->wants_fields)
				http_read_field(skb, search->newline + 1, at, search);
			search->carried = 0;
			search->before = search->newline;
			search->newline = at;
		}
	}
	search->offset += search->loaded;
	search->loaded = 0;
	return search->offset >= search->end;
}

/* Returns whether the line at *offset* ends as that of a request does; also where the packet does not hold its end. */
__attribute__((noinline)) int http_ends_as_request(struct __sk_buff *skb, u32 offset, u32 end)
{
	struct http_search search = { .offset = offset, .end = end, .any_line = 1 };
	u64 version;
	u32 i;

	if (!http_watched)
		return 0;
	for (i = 0; i < LONGEST_REQUEST_LINE_CHUNKS; i++)
		if (http_search_chunk(skb, &search))
			break;
	if (!search.found)
		return 1;
	/* "HTTP/1.1" and CR, or none, before the newline */
	if (bpf_skb_load_bytes(skb, search.newline - 9, &version, sizeof(version)))
		return 0;
	if ((version & FIRST_OF(7)) == BYTES('H', 'T', 'T', 'P', '/', '1', '.', 0))
		return 1;
	return version >> 8 == BYTES('H', 'T', 'T', 'P', '/', '1', '.', 0);
}

static __always_inline bool is_empty_line(struct http_first *first)
{
	return (u16)first->low == ('\r' | '\n' << 8);
}

/* Returns whether a head begins with the packet: what cannot be one is not looked at twice. */
static __always_inline u32 what_begins(struct __sk_buff *skb, u32 offset, u32 end)
{
	struct http_first first;
	u32 length = load_first(skb, offset, end, HTTP_FIRST, &first), method;

	if (!is_upper(first.low))
		return is_empty_line(&first) ? BEGINS_EMPTY_LINE : 0;
	method = request_of(&first, length);
	if (method)
		return length < HTTP_FIRST || http_ends_as_request(skb, offset, end) ? BEGINS_REQUEST : 0;
	return response_of(&first, length) ? BEGINS_RESPONSE : 0;
}

static __always_inline bool http_begins(struct __sk_buff *skb, u32 offset, u32 end, bool asks)
{
	return end - offset >= HTTP_FIRST && what_begins(skb, offset, end) == (asks ? BEGINS_REQUEST : BEGINS_RESPONSE);
}

/* Returns whether the blank line that was found ends a body, with the last chunk before it and no trailers. */
static __always_inline bool is_last_chunk(struct __sk_buff *skb, u32 begin, struct http_search *search)
{
	u32 zero = search->newline - 2 - (LAST_CHUNK - 1);
	u8 byte;

	if (search->last != LAST_CHUNK)
		return 0;
	if ((s32)(zero - begin) < 0) /* in a packet before */
		return 1;
	return !bpf_skb_load_bytes(skb, zero, &byte, 1) && byte == '0';
}
