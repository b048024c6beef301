/* What is kept of a socket that speaks HTTP/1, and how it is counted. */
#pragma once

enum http_mode {
	HTTP_HEAD, /* at position + skip a head begins */
	HTTP_INSIDE, /* a head goes on at position */
	HTTP_CHUNKED, /* a chunked body goes on at position */
	HTTP_UNKNOWN, /* nobody knows how long the body is: a head begins with a packet */
};

/* One direction. */
struct http_stream {
	u64 skip;     /* bytes of a body */
	u32 position; /* sequence number up to which it has been followed */
	u32 newline;  /* sequence number of the last one in a head, or in a chunked body */
	u32 before;   /* and of the one before it */
	u32 carried;  /* bytes in the piece's line */
	u8 mode;
	u8 first_length; /* bytes in the piece's first */
	u8 fields; /* of the head, 0 once the body began: HTTP_HAS_LENGTH, HTTP_HAS_CODING */
	u8 bodyless;
};

/* What is kept of a head in one direction that came in several packets. */
struct http_piece {
	u64 first_ns; /* when its first bytes were seen, where they were less than HTTP_FIRST */
	u64 line[LINE_WORDS]; /* how the line began that the next packet ends */
	u32 first[3]; /* those first bytes */
};

struct http_status {
	u32 code; /* 0: none yet */
	u32 count;
};

#define PIPELINED 16
#define MOST_STATUSES 16
/* Latencies from 2^10 to 2^38 units of 2^-30 s (1 us to 256 s) have bins of their own, others the first or last. */
#define OCTAVES 28
#define BINS_OF_OCTAVE 8
#define LEAST_BIN (10 * BINS_OF_OCTAVE)
/* Bits of `changed`, beside one an octave. */
#define REQUESTS_CHANGED (1U << 28)
#define STATUSES_CHANGED (1U << 29)
#define CLASSES 5

/* A request and its response are seen on two processors, which then fetch what the other one wrote, cache line by cache
 * line. The kernel has 8 bytes of its own in front: so what all packets need is in the first line, and what responses
 * need besides in the second. */
struct http_socket {
	u32 asked;
	u32 answered;
	bool client;
	bool pipelines; /* a request came before the one before was answered */
	bool over; /* it speaks something else from here on */
	u32 changed; /* this and all that is counted the reader takes out */
	u32 requests;
	struct http_stream asks;
	struct http_stream answers;
	u64 latency_sum_ns;
	struct http_status statuses[MOST_STATUSES];
	u64 times[PIPELINED]; /* of the unanswered requests, in ns, less two bits: ASKED_HEAD, ASKED_CONNECT; 0: not known */
	u32 untold[CLASSES]; /* responses of a status that found no room, by its class */
	struct http_piece asks_piece;
	struct http_piece answers_piece;
	u32 bins[OCTAVES * BINS_OF_OCTAVE]; /* behind the pieces, whose lines the verifier takes for longer than they are */
};

enum {
	ASKED_HEAD = 1,
	ASKED_CONNECT = 2,
	ASKED = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http_socket);
} http_sockets SEC(".maps");

/* Writes whose a record is. */
static __always_inline void write_ends(struct http_record *record, struct tcp_sock *tcp)
{
	struct sock *sk = (struct sock *)tcp;

	record->cgroup = cgroup_of(sk);
	record->network_namespace = sk->__sk_common.skc_net.net->ns.inum;
	record->local_port = bpf_ntohs(tcp->inet_conn.icsk_inet.inet_sport);
	record->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	write_addresses(&sk->__sk_common, record->local_address, record->remote_address);
}

static __always_inline void mark_changed(struct http_socket *http, u32 what)
{
	if (!(http->changed & what))
		__sync_fetch_and_or(&http->changed, what);
}

static __always_inline void count_status(struct http_socket *http, u32 code)
{
	struct http_status *status;
	u32 i, class;

	for (i = 0; i < MOST_STATUSES; i++) {
		status = &http->statuses[i];
		if (!status->code)
			__sync_val_compare_and_swap(&status->code, 0, code);
		if (status->code == code) {
			__sync_fetch_and_add(&status->count, 1);
			mark_changed(http, STATUSES_CHANGED);
			return;
		}
	}
	class = code / 100 - 1;
	if (class >= CLASSES)
		class = 0;
	__sync_fetch_and_add(&http->untold[class], 1);
	mark_changed(http, STATUSES_CHANGED);
}

/* Not inlined: its many ways are many states for the verifier, which beyond it knows but a number. */
__attribute__((noinline)) u32 http_latency_bin(u64 ns)
{
	return http_watched ? latency_bin(ns) : 0;
}

/* Returns which of the bins of a socket it is. */
static __always_inline u32 bin_of(u64 ns)
{
	u32 bin = http_latency_bin(ns);

	bin = bin < LEAST_BIN ? 0 : bin - LEAST_BIN;
	return bin < OCTAVES * BINS_OF_OCTAVE ? bin : OCTAVES * BINS_OF_OCTAVE - 1;
}

static __always_inline void count_latency(struct http_socket *http, u64 ns)
{
	u32 bin = bin_of(ns);

	if (bin >= OCTAVES * BINS_OF_OCTAVE) /* which the verifier has forgotten */
		return;
	__sync_fetch_and_add(&http->latency_sum_ns, ns);
	__sync_fetch_and_add(&http->bins[bin], 1);
	mark_changed(http, 1U << bin / BINS_OF_OCTAVE);
}
