/* DNS: queries and their answers, matched where the packets pass, and counted by socket, peer and role. */
#pragma once

#define DNS_PORT 53
#define DNS_MOST_OPEN (1 << 16)
#define DNS_MOST_ENTRIES (1 << 17) /* between two polls */
#define DNS_MOST_SEGMENTS 128 /* UDP_MAX_SEGMENTS */

const struct dns_peer *dns_peer; /* puts the structs into the object's BTF */
const struct dns_counts *dns_counts;
const struct dns_bin *dns_bin;
const struct dns_key *dns_key;
const struct dns_query *dns_query;

/* Set before load: after it a query has no answer any more. */
const volatile u64 dns_timeout_ns = 0;

u32 dns_generation; /* rises with each reading; its lowest bit tells which maps are counted in */
u64 dns_entries_added;
u64 dns_messages_malformed;
u64 dns_messages_untracked; /* there was no room for a query, for an entry or for the bin of a latency */
u64 dns_answers_unmatched; /* to no open query: too late, again, or to one from before */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DNS_MOST_OPEN);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dns_key);
	__type(value, struct dns_query);
} dns_open SEC(".maps");

struct dns_counts_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DNS_MOST_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dns_peer);
	__type(value, struct dns_counts);
} dns_counts_0 SEC(".maps"), dns_counts_1 SEC(".maps");

struct dns_bins_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DNS_MOST_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dns_bin);
	__type(value, u32);
} dns_bins_0 SEC(".maps"), dns_bins_1 SEC(".maps");

/* Where the reader changes it, the kernel waits for the programs that still run: then none counts any more in the maps
 * of the generation before. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct dns_counts_map);
} dns_exchange SEC(".maps") = {
	.values = { &dns_counts_0 },
};

/* A new entry is a copy of this one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct dns_counts);
} dns_nothing SEC(".maps");

/* Which way a packet goes, and where its transport header is. */
static __always_inline u64 dns_way(u64 transport, u64 sent)
{
	return transport << 1 | sent;
}

/* The ends as the socket knows them where it is connected, which no address translation changes; else as the packet has
 * them. */
static __always_inline bool dns_read_peer(struct __sk_buff *skb, struct bpf_sock *sk, u64 way, struct dns_peer *peer)
{
	u8 *header = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;
	bool connected = sk->dst_port, sent = way & 1;
	u32 local, remote;
	u16 ports[2];

	peer->cookie = bpf_get_socket_cookie(skb);
	peer->transport = sk->protocol;
	peer->local_port = sk->src_port;
	peer->remote_port = bpf_ntohs(sk->dst_port);
	if (!connected) {
		if (sk->protocol != IPPROTO_UDP)
			return 0;
		if (bpf_skb_load_bytes(skb, way >> 1, ports, sizeof(ports)))
			return 0;
		peer->remote_port = bpf_ntohs(ports[sent ? 1 : 0]);
	}
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (header + 20 > end)
			return 0;
		local = sk->src_ip4;
		remote = sk->dst_ip4;
		barrier_var(remote); /* else the compiler makes one read of two, which the verifier does not know */
		if (!local)
			local = *(u32 *)(header + (sent ? 12 : 16));
		if (!connected)
			remote = *(u32 *)(header + (sent ? 16 : 12));
		write_mapped_ipv4(peer->local_address, local);
		write_mapped_ipv4(peer->remote_address, remote);
		return 1;
	}
	if (header + 40 > end)
		return 0;
	__builtin_memcpy(peer->local_address, header + (sent ? 8 : 24), 16);
	__builtin_memcpy(peer->remote_address, header + (sent ? 24 : 8), 16);
	if (sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]) {
		((u32 *)peer->local_address)[0] = sk->src_ip6[0];
		((u32 *)peer->local_address)[1] = sk->src_ip6[1];
		((u32 *)peer->local_address)[2] = sk->src_ip6[2];
		((u32 *)peer->local_address)[3] = sk->src_ip6[3];
	}
	if (connected) {
		((u32 *)peer->remote_address)[0] = sk->dst_ip6[0];
		((u32 *)peer->remote_address)[1] = sk->dst_ip6[1];
		((u32 *)peer->remote_address)[2] = sk->dst_ip6[2];
		((u32 *)peer->remote_address)[3] = sk->dst_ip6[3];
	}
	return 1;
}

static __always_inline u64 dns_remote_hash(struct dns_peer *peer)
{
	u64 hash = dns_mix(dns_seed, ((u64 *)peer->remote_address)[0]);

	return dns_mix(dns_mix(hash, ((u64 *)peer->remote_address)[1]), peer->remote_port);
}

/* The key of a query: of a client the id on its socket, of a server that and the client. Only where one is open already
 * that is another one, it is told apart by all that there is. So an answer without a question finds its query, and one
 * whose sender was translated on the way. */
static __always_inline void dns_write_key(struct dns_peer *peer, u16 id, struct dns_key *key)
{
	key->cookie = peer->cookie;
	key->apart = peer->role == DNS_SERVER ? dns_remote_hash(peer) : 0;
	key->id = id;
	key->role = peer->role;
}

static __always_inline u64 dns_apart(struct dns_peer *peer, u64 question)
{
	return dns_mix(dns_remote_hash(peer), question) | 1;
}

static __always_inline bool dns_same_remote(struct dns_peer *one, struct dns_peer *other)
{
	return ((u64 *)one->remote_address)[0] == ((u64 *)other->remote_address)[0] &&
	       ((u64 *)one->remote_address)[1] == ((u64 *)other->remote_address)[1] &&
	       one->remote_port == other->remote_port;
}

static __always_inline u64 dns_entry_number(struct dns_peer *peer)
{
	u64 hash = dns_seed;
	u32 i;

	for (i = 0; i < sizeof(*peer) / 8; i++)
		hash = dns_mix(hash, ((u64 *)peer)[i]);
	return hash;
}

/* Of a socket, peer and role: the entry there is, or a new one; NULL where there is no room. */
static __always_inline struct dns_counts *dns_entry(u32 generation, struct dns_query *query)
{
	void *counted = generation & 1 ? (void *)&dns_counts_1 : (void *)&dns_counts_0;
	struct dns_counts *entry, *nothing;
	u32 zero = 0;

	entry = bpf_map_lookup_elem(counted, &query->peer);
	if (entry)
		return entry;
	nothing = bpf_map_lookup_elem(&dns_nothing, &zero);
	if (!nothing)
		return NULL;
	bpf_map_update_elem(counted, &query->peer, nothing, BPF_NOEXIST);
	__sync_fetch_and_add(&dns_entries_added, 1);
	entry = bpf_map_lookup_elem(counted, &query->peer);
	if (!entry) {
		__sync_fetch_and_add(&dns_messages_untracked, 1);
		return NULL;
	}
	entry->number = dns_entry_number(&query->peer);
	entry->cgroup = query->cgroup;
	__builtin_memcpy(&entry->owner, &query->owner, sizeof(entry->owner));
	return entry;
}

/* Most entries have latencies in one bin: it is a part of them, and only the others are entries of their own. */
static __always_inline void dns_count_latency(u32 generation, struct dns_counts *entry, u64 latency_ns)
{
	void *counted = generation & 1 ? (void *)&dns_bins_1 : (void *)&dns_bins_0;
	struct dns_bin bin = { .entry = entry->number, .bin = latency_bin(latency_ns) };
	u32 zero = 0, *count;

	__sync_fetch_and_add(&entry->latency_sum_ns, latency_ns);
	__sync_fetch_and_add(&entry->latency_count, 1);
	if (!entry->latency_bin)
		__sync_val_compare_and_swap(&entry->latency_bin, 0, bin.bin + 1);
	if (entry->latency_bin == bin.bin + 1) {
		__sync_fetch_and_add(&entry->latency_bin_count, 1);
		return;
	}
	count = bpf_map_lookup_elem(counted, &bin);
	if (!count) {
		bpf_map_update_elem(counted, &bin, &zero, BPF_NOEXIST);
		count = bpf_map_lookup_elem(counted, &bin);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		__sync_fetch_and_add(&dns_messages_untracked, 1);
}

/* Returns whether it is watched. Of TCP sockets the reader knows it, and their owners. */
static __always_inline bool dns_read_owner(struct dns_query *query)
{
	struct udp_socket *socket;

	if (query->peer.transport != IPPROTO_UDP)
		return 1;
	socket = bpf_map_lookup_elem(&udp_sockets, &query->peer.cookie);
	if (network_namespaces_named && (!socket || !is_watched(socket->network_namespace)))
		return 0;
	if (socket) {
		query->owner.process_start_ns = socket->process_start_ns;
		query->owner.pid = socket->pid;
		query->owner.network_namespace = socket->network_namespace;
		__builtin_memcpy(query->owner.comm, socket->comm, sizeof(query->owner.comm));
	}
	return 1;
}

static __attribute__((noinline)) void dns_count_query(struct __sk_buff *skb, u16 id, struct dns_query *query)
{
	u32 generation = *(volatile u32 *)&dns_generation;
	struct dns_query *open;
	struct dns_counts *entry;
	struct dns_key key;
	bool late = 0;
	u64 apart;

	if (!dns_read_owner(query))
		return;
	dns_write_key(&query->peer, id, &key);
	apart = key.apart;
	query->cgroup = bpf_skb_cgroup_id(skb);
	open = bpf_map_lookup_elem(&dns_open, &key);
	if (!open || open->question != query->question || !dns_same_remote(&open->peer, &query->peer)) {
		if (open)
			apart = dns_apart(&query->peer, query->question);
		key.apart = dns_apart(&query->peer, query->question);
		open = bpf_map_lookup_elem(&dns_open, &key);
		if (!open)
			key.apart = apart;
	}
	if (open && query->time_ns - open->time_ns > dns_timeout_ns) {
		late = !bpf_map_delete_elem(&dns_open, &key);
		open = NULL;
	}
	if (!open && bpf_map_update_elem(&dns_open, &key, query, BPF_NOEXIST)) {
		__sync_fetch_and_add(&dns_messages_untracked, 1);
		return;
	}
	entry = dns_entry(generation, query);
	if (!entry)
		return;
	if (late)
		__sync_fetch_and_add(&entry->timeouts, 1);
	if (open)
		__sync_fetch_and_add(&entry->retransmits, 1);
	else
		__sync_fetch_and_add(&entry->queries, 1);
}

/* Finds the open query that an answer is to, has `key` be its key and copies it. */
static __always_inline bool dns_find_query(struct dns_key *key, struct dns_query *query)
{
	struct dns_query *open = bpf_map_lookup_elem(&dns_open, key), *other;
	u64 question = query->question, apart = key->apart;
	bool same = open && (!question || open->question == question);

	if (!same || !dns_same_remote(&open->peer, &query->peer)) {
		key->apart = dns_apart(&query->peer, question);
		other = question ? bpf_map_lookup_elem(&dns_open, key) : NULL;
		if (other) {
			open = other;
		} else {
			if (!same || key->role != DNS_CLIENT)
				return 0;
			key->apart = apart; /* whoever was asked answers by another address */
		}
	}
	__builtin_memcpy(query, open, sizeof(*query));
	return 1;
}

static __always_inline u32 dns_result(u16 flags, struct dns_header *header, struct dns_records *records)
{
	u32 rcode = flags & DNS_RCODE;

	if (rcode)
		return rcode <= 5 ? rcode + DNS_NODATA : DNS_OTHER;
	if (flags & (DNS_TRUNCATED | DNS_OPCODE))
		return DNS_NOERROR;
	if (header->answers)
		return records->of_type ? DNS_NOERROR : DNS_NODATA;
	return records->extended ? DNS_OTHER : DNS_NODATA;
}

static __attribute__((noinline)) bool dns_count_answer(u16 id, struct dns_query *query,
					     u32 result)
{
	u32 generation = *(volatile u32 *)&dns_generation;
	struct dns_counts *entry;
	u64 latency_ns, now = query->time_ns;
	struct dns_key key;

	dns_write_key(&query->peer, id, &key);
	if (!dns_find_query(&key, query) || now - query->time_ns > dns_timeout_ns ||
	    bpf_map_delete_elem(&dns_open, &key)) {
		if (dns_read_owner(query)) /* is watched */
			__sync_fetch_and_add(&dns_answers_unmatched, 1);
		return 0;
	}
	latency_ns = now - query->time_ns;
	entry = dns_entry(generation, query);
	if (entry) {
		__sync_fetch_and_add(&entry->results[result & 7], 1);
		dns_count_latency(generation, entry, latency_ns);
	}
	return 1;
}

/* Takes the message from `at` to `end` of the packet, or of what is held as `held`. Of one that goes on in later packets
 * `end` is where this one ends. Returns whether it is a message. */
__attribute__((noinline)) u64 dns_take(struct __sk_buff *skb, u64 held, u64 at, u64 end, u64 way)
{
	struct dns_records records = {};
	struct dns_query query = {};
	struct dns_header header;
	struct bpf_sock *sk;
	u16 asked[2] = {}, flags; /* type and class */
	u64 name = 0, name_end;
	u32 result;

	if (!dns_watched)
		return 0;
	sk = skb->sk;
	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk || !dns_read_peer(skb, sk, way, &query.peer))
		return 0;
	if (!dns_read(skb, held, at, end, &header, sizeof(header)))
		goto malformed;
	records.at = at + sizeof(header);
	flags = bpf_ntohs(header.flags);
	query.peer.role = (way & 1) == !(flags & DNS_ANSWER) ? DNS_CLIENT : DNS_SERVER;
	if ((query.peer.role == DNS_CLIENT ? query.peer.remote_port : query.peer.local_port) != DNS_PORT)
		goto malformed;
	if (header.questions == bpf_htons(1)) {
		name_end = dns_name_end(skb, held, records.at, end);
		if (!name_end || !dns_read(skb, held, name_end, end, asked, sizeof(asked)))
			goto malformed;
		name = dns_name_hash(skb, held, records.at, name_end);
		query.question = dns_mix(dns_mix(name, asked[0]), asked[1]) | 1;
		records.at = name_end + sizeof(asked);
	} else if (header.questions || !(flags & DNS_ANSWER)) {
		goto malformed;
	}
	query.time_ns = bpf_ktime_get_boot_ns();
	if (!(flags & DNS_ANSWER)) {
		dns_count_query(skb, header.id, &query);
		return 1;
	}
	if (!(flags & (DNS_RCODE | DNS_TRUNCATED | DNS_OPCODE))) {
		records.held = held;
		records.end = end;
		records.asked = header.answers ? bpf_ntohs(asked[0]) : 0;
		dns_read_records(skb, &records,
				 header.answers ? bpf_ntohs(header.answers) :
						  bpf_ntohs(header.authorities) + bpf_ntohs(header.additionals));
	}
	result = dns_result(flags, &header, &records);
	if (!dns_count_answer(header.id, &query, result) || query.peer.role != DNS_CLIENT || !records.addresses)
		return 1;
	dns_tell(skb, &records, at, dns_mix(name, records.addresses), query.peer.transport == IPPROTO_TCP);
	return 1;
malformed:
	__sync_fetch_and_add(&dns_messages_malformed, 1);
	return 0;
}
