// TCP sockets: an event where one connects, is connected, listens or closes; iterators that read the live ones.
// The kernel keeps nothing for us: no entry a socket in any map, no program where data passes.
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "records.h"
#include "sockets.h"

char LICENSE[] SEC("license") = "GPL";

RING(events, 4 << 20)

const struct tcp_record *tcp_record; /* puts the struct into the object's BTF */
const enum tcp_record_kind tcp_record_kind;

static __always_inline void write_endpoints(struct tcp_record *record, struct tcp_sock *tcp)
{
	struct sock_common *common = &((struct sock *)tcp)->__sk_common;

	/* By TCP_CLOSE the kernel has reset skc_num, not inet_sport. */
	record->local_port = bpf_ntohs(tcp->inet_conn.icsk_inet.inet_sport);
	record->remote_port = bpf_ntohs(common->skc_dport);
	write_addresses(common, record->local_address, record->remote_address);
}

static __always_inline void write_counters(struct tcp_record *record, struct tcp_sock *tcp)
{
	struct sock *sk = (struct sock *)tcp;

	record->bytes_sent = tcp->bytes_sent;
	record->bytes_retrans = tcp->bytes_retrans;
	record->bytes_received = tcp->bytes_received;
	record->segs_out = tcp->segs_out;
	record->segs_in = tcp->segs_in;
	record->total_retrans = tcp->total_retrans;
	record->srtt_us = tcp->srtt_us >> 3;
	record->min_rtt_us = tcp->rtt_min.s[0].v;
	record->error = sk->sk_err;
	/* Only tcp_fin() sets SOCK_DONE. RCV_SHUTDOWN is set by shutdown() and by a reset as well. */
	record->fin_received = sk->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1;
}

/* The error by ICMP that a connecting socket was told of last. Where it comes while the program is in connect(2), the
 * socket goes on, the program learns of it by SO_ERROR, which takes it away from the socket, and closes. What is queued
 * for IP_RECVERR stays: tcp_v4_err() queues it whether or not the program asked for it (45af29ca761c). */
static __always_inline u8 error_by_icmp(struct sock *sk)
{
	struct sock_exterr_skb *queued;
	u8 origin;

	if (!sk->sk_error_queue.qlen)
		return 0;
	queued = (struct sock_exterr_skb *)&sk->sk_error_queue.prev->cb;
	origin = BPF_CORE_READ(queued, ee.ee_origin);
	return origin == SO_EE_ORIGIN_ICMP || origin == SO_EE_ORIGIN_ICMP6 ? BPF_CORE_READ(queued, ee.ee_errno) : 0;
}

static __always_inline enum tcp_record_kind kind_of_event(int old_state, int new_state)
{
	switch (new_state) {
	case TCP_SYN_SENT:
		return TCP_RECORD_CONNECT;
	case TCP_LISTEN:
		return TCP_RECORD_LISTENING;
	case TCP_CLOSE:
		return TCP_RECORD_CLOSED;
	case TCP_ESTABLISHED:
		if (old_state == TCP_SYN_SENT)
			return TCP_RECORD_ESTABLISHED;
	}
	return TCP_RECORD_LIVE; /* not an event that is told */
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_changed, struct sock *sk, int old_state, int new_state)
{
	enum tcp_record_kind kind = kind_of_event(old_state, new_state);
	struct tcp_record *record;
	struct tcp_sock *tcp;
	u32 network_namespace;

	if (kind == TCP_RECORD_LIVE || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	network_namespace = sk->__sk_common.skc_net.net->ns.inum;
	if (!is_watched(network_namespace))
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	record = reserve_events(sizeof(*record));
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->cookie = bpf_get_socket_cookie(sk); /* never used twice, unlike the address */
	record->time_ns = bpf_ktime_get_boot_ns();
	record->network_namespace = network_namespace;
	record->cgroup = cgroup_of(sk);
	record->kind = kind;
	record->state = new_state;
	record->old_state = old_state;
	write_endpoints(record, tcp);
	if (kind == TCP_RECORD_CONNECT || kind == TCP_RECORD_LISTENING) /* the other two may run anywhere */
		write_owner(bpf_get_current_task_btf(), &record->process_start_ns, &record->pid, record->comm);
	else
		write_counters(record, tcp);
	if (kind == TCP_RECORD_CLOSED && old_state == TCP_SYN_SENT && !record->error)
		record->error = error_by_icmp(sk);
	submit_events(record);
	return 0;
}

/* The kernel sends a reset for a socket: it is closed at the same moment, or was a moment ago. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, struct sock *sk)
{
	struct tcp_record *record;
	u32 network_namespace;

	if (!sk || !bpf_skc_to_tcp_sock(sk)) /* for a port where nobody listens, in TIME_WAIT, or half open */
		return 0;
	if (sk->__sk_common.skc_state == TCP_LISTEN || sk->__sk_common.skc_state == TCP_SYN_SENT)
		return 0;
	network_namespace = sk->__sk_common.skc_net.net->ns.inum;
	if (!is_watched(network_namespace))
		return 0;
	record = reserve_events(sizeof(*record));
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->cookie = bpf_get_socket_cookie(sk);
	record->time_ns = bpf_ktime_get_boot_ns();
	record->network_namespace = network_namespace;
	record->kind = TCP_RECORD_RESET_SENT;
	submit_events(record);
	return 0;
}

static __always_inline void write_live(struct seq_file *seq, struct tcp_sock *tcp, struct task_struct *task)
{
	struct sock *sk = (struct sock *)tcp;
	struct tcp_record record = {};

	record.network_namespace = sk->__sk_common.skc_net.net->ns.inum;
	if (!is_watched(record.network_namespace))
		return;
	record.cookie = bpf_get_socket_cookie(sk);
	record.time_ns = bpf_ktime_get_boot_ns();
	record.cgroup = cgroup_of(sk);
	record.kind = TCP_RECORD_LIVE;
	record.state = sk->__sk_common.skc_state;
	write_endpoints(&record, tcp);
	write_counters(&record, tcp);
	if (task)
		write_owner(task, &record.process_start_ns, &record.pid, record.comm);
	bpf_seq_write(seq, &record, sizeof(record));
}

/* A record for each file descriptor that is a TCP socket, of every network namespace and of the reader's pid namespace. */
SEC("iter/task_file")
int tcp_of_processes(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct socket *socket;
	struct tcp_sock *tcp;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket || !socket->sk)
		return 0;
	tcp = bpf_skc_to_tcp_sock(socket->sk);
	if (tcp)
		write_live(context->meta->seq, tcp, task);
	return 0;
}

/* A record for each TCP socket of the reader's network namespace, with or without a file descriptor, of no known owner. */
SEC("iter/tcp")
int tcp_of_network_namespace(struct bpf_iter__tcp *context)
{
	struct sock_common *common = context->sk_common;
	struct tcp_sock *tcp;

	if (!common)
		return 0;
	tcp = bpf_skc_to_tcp_sock(common); /* NULL for TIME_WAIT and requests */
	if (tcp)
		write_live(context->meta->seq, tcp, NULL);
	return 0;
}
