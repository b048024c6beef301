/* UDP: bytes and packets by socket and peer; an iterator that reads owners and drops. */
#pragma once

#define MOST_UDP_SOCKETS (1 << 16)
#define MOST_UDP_ENTRIES (1 << 17) /* between two polls, each 200 bytes while it is used */
#define MOST_UDP_DROPPED (1 << 12) /* sockets that drop datagrams: those that did lately */
#define UDP_HEADER_BYTES 8

const struct udp_record *udp_record; /* puts the structs into the object's BTF */
const struct udp_peer *udp_peer;
const struct udp_traffic *udp_traffic;
const struct udp_dropped *udp_dropped_record;

/* Set before load: how many peers of a socket are told apart between two polls. */
const volatile u32 udp_most_peers = 4096;

u32 udp_generation; /* rises with each reading */
u64 udp_entries_added;
u64 udp_packets_untracked; /* there was no room for an entry */
u64 udp_packets_of_other_peers; /* the socket had too many */

struct udp_socket {
	u64 process_start_ns;
	u32 pid;
	u32 network_namespace;
	u32 generation;
	u32 peers; /* in that generation */
	char comm[16];
};

/* What is known of sockets, by cookie; only a packet of a new peer asks for it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MOST_UDP_SOCKETS);
	__type(key, u64);
	__type(value, struct udp_socket);
} udp_sockets SEC(".maps");

struct udp_counts_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_UDP_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct udp_peer);
	__type(value, struct udp_traffic);
} udp_counts_0 SEC(".maps"), udp_counts_1 SEC(".maps");

/* The map that is counted in. The reader puts the other one here, upon which the kernel waits for the programs that
 * still run, and then reads and empties this one, which nobody touches any more: so no packet is lost or told twice. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct udp_counts_map);
} udp_counts SEC(".maps") = {
	.values = { &udp_counts_0 },
};

/* A new entry for a peer, or the socket's entry for all others; NULL where the socket is not watched or no room is. The
 * packet is *skb*, or one of *sk* where there is none. */
static __always_inline struct udp_traffic *add_peer(void *counted, struct udp_peer *peer, struct __sk_buff *skb,
						    struct sock *sk)
{
	struct udp_socket *socket = bpf_map_lookup_elem(&udp_sockets, &peer->cookie);
	struct udp_traffic new = {};
	struct udp_traffic *entry;

	if (network_namespaces_named && (!socket || !is_watched(socket->network_namespace)))
		return NULL;
	if (socket) {
		if (socket->generation != udp_generation) {
			socket->generation = udp_generation;
			socket->peers = 0;
		}
		if (socket->peers >= udp_most_peers) {
			__builtin_memset(peer->remote_address, 0, sizeof(peer->remote_address));
			peer->remote_port = 0;
			__sync_fetch_and_add(&udp_packets_of_other_peers, 1);
			entry = bpf_map_lookup_elem(counted, peer);
			if (entry)
				return entry;
		}
		__sync_fetch_and_add(&socket->peers, 1);
		new.process_start_ns = socket->process_start_ns;
		new.pid = socket->pid;
		new.network_namespace = socket->network_namespace;
		__builtin_memcpy(new.comm, socket->comm, sizeof(new.comm));
	}
	new.cgroup = sk ? cgroup_of(sk) : bpf_skb_cgroup_id(skb); /* which of the two is known when it is compiled */
	bpf_map_update_elem(counted, peer, &new, BPF_NOEXIST);
	__sync_fetch_and_add(&udp_entries_added, 1);
	entry = bpf_map_lookup_elem(counted, peer); /* perhaps another processor's */
	if (!entry)
		__sync_fetch_and_add(&udp_packets_untracked, 1);
	return entry;
}

/* Counts what a socket sent to a peer or received from it, *gso_size* being the payload of each packet but the last, or 0
 * for one packet; *skb* and *sk* as for add_peer(). */
static __always_inline void count_udp(struct udp_peer *peer, u32 bytes, u32 gso_size, bool sent, struct __sk_buff *skb,
				      struct sock *sk)
{
	u32 packets = gso_size ? (bytes + gso_size - 1) / gso_size : 1, zero = 0;
	struct udp_traffic *entry;
	void *counted;

	counted = bpf_map_lookup_elem(&udp_counts, &zero);
	if (!counted)
		return;
	entry = bpf_map_lookup_elem(counted, peer);
	if (!entry) {
		entry = add_peer(counted, peer, skb, sk);
		if (!entry)
			return;
	}
	if (sent) {
		__sync_fetch_and_add(&entry->bytes_sent, bytes);
		__sync_fetch_and_add(&entry->packets_sent, packets);
	} else {
		__sync_fetch_and_add(&entry->bytes_received, bytes);
		__sync_fetch_and_add(&entry->packets_received, packets);
	}
}

/* Who opened a socket: of one that lives between two polls nothing else tells. */
SEC("cgroup/sock_create")
int udp_created(struct bpf_sock *context)
{
	struct udp_socket socket = {};
	struct task_struct *task;
	u64 cookie;

	if (context->protocol != IPPROTO_UDP)
		return 1;
	task = bpf_get_current_task_btf();
	socket.network_namespace = task->nsproxy->net_ns->ns.inum;
	write_owner(task, &socket.process_start_ns, &socket.pid, socket.comm);
	cookie = bpf_get_socket_cookie(context);
	bpf_map_update_elem(&udp_sockets, &cookie, &socket, 0);
	return 1;
}

static __always_inline u32 drops(struct sock *sk)
{
	struct numa_drop_counters *counters;

	if (bpf_core_field_exists(sk->sk_drop_counters)) {
		counters = sk->sk_drop_counters;
		if (counters)
			return counters->drops0.counter + counters->drops1.counter;
	}
	return sk->sk_drops.counter;
}

/* By cookie: of a socket that ends before the next poll nothing else tells what it dropped. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MOST_UDP_DROPPED);
	__type(key, u64);
	__type(value, struct udp_dropped);
} udp_dropped SEC(".maps");

/* A socket drops a datagram for want of room; its count has risen already. */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_no_room, int error, struct sock *sk)
{
	u32 now = drops(sk);
	struct udp_dropped new = { .before = now - 1, .now = now }, *known;
	u64 cookie;

	if (sk->sk_protocol != IPPROTO_UDP || !is_watched(sk->__sk_common.skc_net.net->ns.inum))
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	known = bpf_map_lookup_elem(&udp_dropped, &cookie);
	if (known)
		known->now = now;
	else
		bpf_map_update_elem(&udp_dropped, &cookie, &new, BPF_NOEXIST);
	return 0;
}

/* A record for each file descriptor that is a UDP socket, of every network namespace and of the reader's pid namespace. */
SEC("iter/task_file")
int udp_of_processes(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct udp_socket known = {};
	struct udp_record record = {};
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_UDP)
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	record.network_namespace = sk->__sk_common.skc_net.net->ns.inum;
	if (!is_watched(record.network_namespace))
		return 0;
	record.cookie = bpf_get_socket_cookie(sk);
	record.cgroup = cgroup_of(sk);
	record.drops = drops(sk);
	record.local_port = sk->__sk_common.skc_num;
	record.remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	write_addresses(&sk->__sk_common, record.local_address, record.remote_address);
	write_owner(task, &record.process_start_ns, &record.pid, record.comm);
	if (!bpf_map_lookup_elem(&udp_sockets, &record.cookie)) {
		known.process_start_ns = record.process_start_ns;
		known.pid = record.pid;
		known.network_namespace = record.network_namespace;
		__builtin_memcpy(known.comm, record.comm, sizeof(known.comm));
		bpf_map_update_elem(&udp_sockets, &record.cookie, &known, BPF_NOEXIST);
	}
	bpf_seq_write(context->meta->seq, &record, sizeof(record));
	return 0;
}
