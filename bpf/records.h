/* What the kernel hands up: the only definition of each record. Python derives its numpy dtypes from these structs by
 * the BTF of the compiled object (kernel_collector/bpf/records.py). Times are bpf_ktime_get_boot_ns(), addresses network
 * byte order with IPv4 as ::ffff:a.b.c.d, ports host byte order. */
#pragma once

enum tcp_record_kind {
	TCP_RECORD_LIVE = 0,        /* read by an iterator */
	TCP_RECORD_CONNECT = 1,     /* to SYN_SENT; the local port may not be chosen yet */
	TCP_RECORD_ESTABLISHED = 2, /* from SYN_SENT to ESTABLISHED: the connecting end only */
	TCP_RECORD_LISTENING = 3,   /* to LISTEN; the local port is 0 where listen() is to choose it */
	TCP_RECORD_CLOSED = 4,      /* to CLOSE: the final counters */
	TCP_RECORD_RESET_SENT = 5,  /* a moment before or after the one of CLOSE: cookie and time alone */
};

struct tcp_record {
	u64 cookie;
	u64 time_ns;
	u64 bytes_sent; /* each time it was sent */
	u64 bytes_retrans;
	u64 bytes_received; /* one more once a FIN was received */
	u64 cgroup; /* id of the socket's own cgroup; 0 where unknown */
	u64 process_start_ns; /* of the process pid, since boot; 0 where there is none */
	u32 pid;              /* of the process (thread group); 0 where unknown */
	u32 network_namespace;
	u32 segs_out;
	u32 segs_in;
	u32 total_retrans;
	u32 srtt_us;
	u32 min_rtt_us; /* ~0 where the kernel has none yet */
	u16 local_port;
	u16 remote_port;
	u8 kind;
	u8 state;     /* new state of an event, present state of a live socket */
	u8 old_state; /* of an event */
	u8 error;     /* sk_err; where a connecting socket has none, what ICMP told */
	u8 fin_received;
	u8 padding[3];
	u8 local_address[16];
	u8 remote_address[16];
	char comm[16]; /* of the process's first thread */
};

/* A UDP socket, read by an iterator. */
struct udp_record {
	u64 cookie;
	u64 cgroup; /* as in tcp_record */
	u64 process_start_ns; /* of the process pid, since boot */
	u32 pid;              /* of the process (thread group) */
	u32 network_namespace;
	u32 drops;       /* datagrams that the socket was to receive and did not; wraps */
	u16 local_port;  /* 0 where not bound */
	u16 remote_port; /* 0 where not connected */
	u8 local_address[16];
	u8 remote_address[16];
	char comm[16]; /* of the process's first thread */
};

/* What a UDP socket had dropped when it did so last. */
struct udp_dropped {
	u32 before; /* this count began; both wrap */
	u32 now;
};

/* Whose traffic an entry counts: a socket and one of its peers, as the packets name them. A remote end of zeros stands
 * for all peers beyond the limit. */
struct udp_peer {
	u64 cookie;
	u8 local_address[16];
	u8 remote_address[16];
	u16 local_port;
	u16 remote_port;
	u32 padding; /* 0: it is part of the key */
};

struct udp_traffic {
	u64 bytes_sent; /* payload: neither IP nor UDP header */
	u64 bytes_received;
	u64 packets_sent; /* datagrams on the wire: those that GSO and GRO join count one by one */
	u64 packets_received;
	u64 cgroup; /* as in tcp_record */
	u64 process_start_ns; /* of the process that opened the socket, or held it in the last poll; 0 where unknown */
	u32 pid;
	u32 network_namespace; /* 0 where unknown */
	char comm[16];
};

/* Whose packets an entry counts: a flow, from whoever sent them to whom they were for, and why they were dropped. Where a
 * packet does not tell its flow, addresses, ports and transport are zero. */
struct drop_key {
	u8 source_address[16];
	u8 destination_address[16];
	u32 network_namespace;
	u16 source_port;
	u16 destination_port;
	u16 reason; /* enum skb_drop_reason; of a subsystem 512 | its number << 6 | the reason's */
	u8 transport; /* IPPROTO_TCP or IPPROTO_UDP */
	u8 padding; /* 0: it is part of the key */
};

struct drop_counts {
	u64 packets; /* on the wire: those that GSO and GRO join count one by one */
	u64 bytes;   /* from the network header on */
	u64 socket;  /* cookie of the socket that the first of them was for or from; 0 where unknown */
};

struct socket_owner {
	u64 process_start_ns; /* as in udp_traffic; all 0 where unknown */
	u32 pid;
	u32 network_namespace;
	char comm[16];
};

enum dns_role { /* Role in proto/ebpf_net/v1/intake.proto */
	DNS_CLIENT = 1,
	DNS_SERVER = 2,
};

/* Whose DNS messages an entry counts: a socket and one of its peers, and whether it asks or answers. */
struct dns_peer {
	u64 cookie;
	u8 local_address[16];
	u8 remote_address[16];
	u16 local_port;
	u16 remote_port;
	u8 transport; /* IPPROTO_TCP or IPPROTO_UDP */
	u8 role;
	u8 padding[2]; /* 0: it is part of the key */
};

enum dns_result { /* DNS_RESULTS in intake/columns.py; from the third on they are the codes from 1 on (RFC 1035 4.1.1) */
	DNS_NOERROR = 0,
	DNS_NODATA = 1,
	DNS_OTHER = 7,
};

struct dns_counts {
	u64 number; /* of the entry, in dns_bin */
	u64 cgroup; /* as in tcp_record */
	struct socket_owner owner;
	u64 latency_sum_ns;
	u32 latency_count;
	u32 latency_bin; /* 1 + the bin of the first latency; 0: there is none */
	u32 latency_bin_count; /* how many are in that; the others are in the map of bins */
	u32 queries;
	u32 retransmits;
	u32 timeouts; /* of queries that were sent again later; the others are in the map of open queries */
	u32 results[8]; /* by dns_result */
};

struct dns_bin {
	u64 entry;
	u64 bin;
};

/* An open query, and where it stands among those. */
struct dns_key {
	u64 cookie;
	u64 apart;
	u32 id;
	u32 role;
};

struct dns_query {
	u64 time_ns; /* when it was sent first */
	u64 question; /* a hash */
	u64 cgroup;
	struct dns_peer peer;
	struct socket_owner owner;
};

/* A piece of an answer with addresses. */
struct dns_answer {
	u64 answer; /* the same for all its pieces */
	u32 offset; /* of the piece */
	u32 length; /* of the answer, of which there may be more than the pieces hold */
	u8 bytes[512];
};

enum http_pair_kind {
	HTTP_PAIR_LATENCY = 1, /* bin as of BIN_KIND_HTTP_LATENCY */
	HTTP_PAIR_STATUS = 2,  /* the status */
	HTTP_PAIR_CLASS = 3,   /* the first digit of a status that is not told */
};

#define HTTP_PAIRS 8

/* What a socket asked or answered by HTTP since the record before; several where there are more pairs than one holds. */
struct http_record {
	u64 cookie;
	u64 cgroup; /* as in tcp_record */
	u64 latency_sum_ns;
	u32 network_namespace;
	u32 requests;
	u32 counts[HTTP_PAIRS]; /* how often a bin occurred */
	u16 bins[HTTP_PAIRS];
	u8 kinds[HTTP_PAIRS]; /* meaningless beyond the pairs that there are, as the two above */
	u16 local_port;
	u16 remote_port;
	u8 pairs;
	u8 client; /* 1: it asks, 0: it answers */
	u8 padding[2];
	u8 local_address[16];
	u8 remote_address[16];
};

struct cgroup_record {
	u64 id;
	char path[512]; /* from the root of the hierarchy; cut at the end */
};

/* A process that executed a program, or was forked: then it has its parent's arguments. */
struct exec_record {
	u64 process_start_ns;
	u32 pid;
	u32 arguments_length; /* bytes in arguments */
	u32 parent_pid;
	u32 padding;
	char comm[16];
	char arguments[256]; /* each ends with NUL; cut at the end */
};
