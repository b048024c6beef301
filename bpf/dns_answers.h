/* DNS: answers with addresses that the reader is to see, in pieces, but for those that it has seen lately. */
#pragma once

#define DNS_MOST_SEEN (1 << 14)
#define DNS_SEEN_AGAIN_NS 30000000000ULL
#define DNS_MOST_PIECES 8 /* of an answer that the reader is to see: 4096 bytes */

const struct dns_answer *dns_answer; /* puts the struct into the object's BTF */

RING(dns_answers, 1 << 19)

/* What names and addresses the reader was told of, by their hash, and when. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DNS_MOST_SEEN);
	__type(key, u64);
	__type(value, u64);
} dns_seen SEC(".maps");

/* An answer that the reader is to see. */
struct dns_telling {
	u64 hash; /* of its name and addresses */
	u64 held; /* these as for dns_read(), `at` where the next piece begins */
	u64 at;
	u64 end;
	u32 offset; /* of the next piece in the answer */
	u32 length; /* of the whole answer */
};

/* Puts the next piece into the ring; returns whether another one may follow. */
__attribute__((noinline)) int dns_tell_piece(struct __sk_buff *skb, struct dns_telling *telling)
{
	struct dns_answer *piece;
	u64 at, size;
	bool read;

	if (!dns_watched || !telling)
		return 0;
	piece = reserve_dns_answers(sizeof(*piece));
	if (!piece)
		return 0;
	at = telling->at;
	piece->answer = telling->hash;
	piece->offset = telling->offset;
	piece->length = telling->length;
	size = telling->end - at;
	if (size > sizeof(piece->bytes))
		size = sizeof(piece->bytes);
	if (telling->held)
		read = dns_read(skb, telling->held, at, at + sizeof(piece->bytes), piece->bytes, sizeof(piece->bytes));
	else
		read = size &&
		       !bpf_skb_load_bytes(skb, at, piece->bytes, from_one_to(sizeof(piece->bytes), size));
	if (!read) {
		bpf_ringbuf_discard(piece, BPF_RB_NO_WAKEUP);
		return 0;
	}
	bpf_ringbuf_submit(piece, BPF_RB_NO_WAKEUP);
	telling->at = at + size;
	telling->offset += size;
	return 1;
}

/* Has the reader see the answer at `at`, unless it has seen the same addresses of that name lately. */
static __attribute__((noinline)) void dns_tell(struct __sk_buff *skb, struct dns_records *records, u64 at, u64 hash,
					       bool tcp)
{
	struct dns_telling telling = { .hash = hash, .held = records->held, .at = at, .end = records->end };
	u64 now = bpf_ktime_get_boot_ns(), *told;
	u16 prefix;
	int i;

	telling.length = telling.end - at;
	if (tcp && dns_read(skb, telling.held, at - sizeof(prefix), at, &prefix, sizeof(prefix)))
		telling.length = bpf_ntohs(prefix);
	told = bpf_map_lookup_elem(&dns_seen, &hash);
	if (told && now - *told < DNS_SEEN_AGAIN_NS)
		return;
	for (i = 0; i < DNS_MOST_PIECES && telling.at < telling.end; i++)
		if (!dns_tell_piece(skb, &telling))
			return;
	bpf_map_update_elem(&dns_seen, &hash, &now, 0);
}
