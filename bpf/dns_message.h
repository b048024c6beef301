/* DNS messages (RFC 1035 4.1), read where they are: in a packet, or, of a message that came in pieces, where those are
 * held together. Whoever wrote them is not trusted: all that is read is bounded, and what is no message is told as such.
 *
 * Functions that are no static ones are verified once, whoever calls them. Offsets are u64, so that the compiler does
 * not compare one copy of them and use another. */
#pragma once

#define DNS_HEADER_BYTES 12
#define DNS_LONGEST_NAME 255
#define DNS_MOST_LABELS 128
#define DNS_MOST_RECORDS 40 /* that are looked at in an answer */
#define DNS_MOST_HELD_BYTES 512 /* of a message over TCP that comes in pieces, with the length before it */
#define DNS_MOST_HELD 1024

enum dns_type {
	DNS_TYPE_A = 1,
	DNS_TYPE_AAAA = 28,
	DNS_TYPE_OPT = 41, /* RFC 6891 */
	DNS_FIRST_META_TYPE = 249, /* TKEY, TSIG, IXFR, AXFR, MAILB, MAILA, ANY: the answer has other types */
	DNS_LAST_META_TYPE = 255,
};

enum dns_flags {
	DNS_ANSWER = 0x8000,
	DNS_OPCODE = 0x7800,
	DNS_TRUNCATED = 0x0200,
	DNS_RCODE = 0x000f,
};

struct dns_header {
	u16 id;
	u16 flags;
	u16 questions;
	u16 answers;
	u16 authorities;
	u16 additionals;
};

/* Records of an answer, and what those that were read say. */
struct dns_records {
	u64 held; /* these three as for dns_read(), `at` where the next record begins, 0: that is not known */
	u64 at;
	u64 end;
	u64 addresses; /* a hash of all addresses, in whatever order */
	u32 asked;     /* the type that was asked for */
	u8 of_type;    /* one is of that type */
	u8 extended;   /* the result code has higher bits, in OPT */
	u8 padding[2];
};

/* Set before load. */
const volatile bool dns_watched = 0;

/* Set before load: nobody else can choose names that share a hash. */
const volatile u64 dns_seed = 0;

struct dns_held {
	u8 bytes[2 * DNS_MOST_HELD_BYTES]; /* the second half for the verifier: a piece begins in the first, and is as long */
};

/* The pieces, by dns_stream_key(). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DNS_MOST_HELD);
	__type(key, u64);
	__type(value, struct dns_held);
} dns_held SEC(".maps");

static __always_inline u64 dns_mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15;
	return hash ^ hash >> 32;
}

/* Reads `size` bytes at `at` of the packet, or of what is held as `held`; `end` is where the message ends. */
static __always_inline bool dns_read(struct __sk_buff *skb, u64 held, u64 at, u64 end, void *to, const u64 size)
{
	struct dns_held *pieces;

	if (at + size > end)
		return 0;
	if (!held)
		return !bpf_skb_load_bytes(skb, at, to, size);
	pieces = bpf_map_lookup_elem(&dns_held, &held);
	if (!pieces || at >= DNS_MOST_HELD_BYTES)
		return 0;
	barrier_var(at); /* what is compared is what is used below */
	return !bpf_probe_read_kernel(to, size, pieces->bytes + (at & (DNS_MOST_HELD_BYTES - 1)));
}

/* Returns where the name at `at` ends; 0 where it is none. */
static __always_inline u64 dns_pass_name(struct __sk_buff *skb, u64 held, u64 at, u64 end)
{
	u64 start = at;
	u8 length;
	int i;

	for (i = 0; i < DNS_MOST_LABELS; i++) {
		if (!dns_read(skb, held, at, end, &length, 1))
			return 0;
		if (!length)
			return at + 1 - start <= DNS_LONGEST_NAME ? at + 1 : 0;
		if (length >= 0xc0) /* it goes on elsewhere */
			return at + 2;
		if (length >= 0x40)
			return 0;
		at += 1 + length;
	}
	return 0;
}

__attribute__((noinline)) u64 dns_name_end(struct __sk_buff *skb, u64 held, u64 at, u64 end)
{
	return dns_watched ? dns_pass_name(skb, held, at, end) : 0;
}

/* Makes ASCII letters lower case: of names that differ in nothing else the answers are the same (RFC 4343), and some
 * resolvers mix both to be harder to deceive. The bytes that say a label's length are no letters. */
static __always_inline u64 dns_lower(u64 word)
{
	u64 low = word & 0x7f7f7f7f7f7f7f7f;
	u64 capitals = (low + 0x3f3f3f3f3f3f3f3f) & ~(low + 0x2525252525252525) & ~word & 0x8080808080808080;

	return word | capitals >> 2;
}

/* Returns a hash of the name from `at` to `name_end`, in whatever case. */
__attribute__((noinline)) u64 dns_name_hash(struct __sk_buff *skb, u64 held, u64 at, u64 name_end)
{
	u64 hash = dns_seed, word;
	u8 byte;
	int i;

	if (!dns_watched)
		return 0;
	for (i = 0; i < DNS_LONGEST_NAME / 8; i++) {
		if (!dns_read(skb, held, at, name_end, &word, 8))
			break;
		hash = dns_mix(hash, dns_lower(word));
		at += 8;
	}
	for (i = 0; i < 8; i++) {
		if (!dns_read(skb, held, at, name_end, &byte, 1))
			break;
		hash = dns_mix(hash, dns_lower(byte));
		at++;
	}
	return hash;
}

/* Reads the next record. */
__attribute__((noinline)) int dns_read_record(struct __sk_buff *skb, struct dns_records *records)
{
	u64 held, at, end, address[2] = {};
	u16 fixed[5]; /* type, class, time to live, length of what follows */
	u16 type, length;

	if (!dns_watched || !records)
		return 0;
	held = records->held;
	end = records->end;
	at = dns_pass_name(skb, held, records->at, end);
	records->at = 0;
	if (!at || !dns_read(skb, held, at, end, fixed, sizeof(fixed)))
		return 0;
	at += sizeof(fixed);
	type = bpf_ntohs(fixed[0]);
	length = bpf_ntohs(fixed[4]);
	records->at = at + length;
	if (type == records->asked || (records->asked >= DNS_FIRST_META_TYPE && records->asked <= DNS_LAST_META_TYPE))
		records->of_type = 1;
	if (type == DNS_TYPE_OPT && *(u8 *)&fixed[2])
		records->extended = 1;
	if (type == DNS_TYPE_A && length == 4 && dns_read(skb, held, at, end, address, 4))
		records->addresses += dns_mix(dns_mix(dns_seed, address[0]), 4);
	if (type == DNS_TYPE_AAAA && length == 16 && dns_read(skb, held, at, end, address, 16))
		records->addresses += dns_mix(dns_mix(dns_seed, address[0]), address[1]);
	return 0;
}

/* Reads `count` records. Where they are too many, or some are not there, it may be that they hold what was asked for. */
static __always_inline void dns_read_records(struct __sk_buff *skb, struct dns_records *records, u32 count)
{
	u32 i;

	for (i = 0; i < DNS_MOST_RECORDS && i < count && records->at; i++)
		dns_read_record(skb, records);
	if (i < count || !records->at)
		records->of_type = 1;
}
