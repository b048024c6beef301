/* HTTP: how what was counted gets out, by an iterator at each poll, and by an event where a socket ends. */
#pragma once

#define HTTP_RING_BYTES (2 << 20)

const struct http_record *http_record; /* puts the struct into the object's BTF */
const enum http_pair_kind *http_pair_kind;

/* Of one socket. */
#define MOST_RECORDS ((MOST_STATUSES + CLASSES + OCTAVES * BINS_OF_OCTAVE) / HTTP_PAIRS + 1)

RING(http_closed, HTTP_RING_BYTES)

/* Not inlined: the verifier looks at it once. Returns whether the record is full. */
__attribute__((noinline)) int http_add_pair(struct http_record *record, u32 kind, u32 bin, u32 count)
{
	u32 pairs;

	if (!record)
		return 0;
	pairs = record->pairs;
	if (pairs >= HTTP_PAIRS)
		return 1;
	record->counts[pairs] = count;
	record->bins[pairs] = bin;
	record->kinds[pairs] = kind;
	record->pairs = pairs + 1;
	return record->pairs == HTTP_PAIRS;
}

/* Hands a record up, by the iterator, or else by the ring, and empties it. */
static __always_inline void write_record(struct http_record *record, struct seq_file *seq)
{
	struct http_record *event;

	if (seq) {
		bpf_seq_write(seq, record, sizeof(*record));
	} else {
		event = reserve_http_closed(sizeof(*event));
		if (event) {
			__builtin_memcpy(event, record, sizeof(*event));
			submit_http_closed(event);
		}
	}
	record->requests = 0;
	record->latency_sum_ns = 0;
	record->pairs = 0;
}

static __always_inline void take_out(u32 *counter, u32 kind, u32 bin, struct http_record *record, struct seq_file *seq)
{
	if (*counter && http_add_pair(record, kind, bin, __sync_lock_test_and_set(counter, 0)))
		write_record(record, seq);
}

/* Takes out what was counted since the call before. */
static __always_inline void report_http(struct sock *sk, struct seq_file *seq)
{
	struct http_record record = {};
	struct http_socket *http;
	struct tcp_sock *tcp;
	u32 changed, octave, i;

	http = bpf_sk_storage_get(&http_sockets, sk, 0, 0);
	if (!http || !http->changed)
		return;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return;
	/* The marks first: what is counted from here on marks again. */
	changed = __sync_lock_test_and_set(&http->changed, 0);
	record.cookie = bpf_get_socket_cookie(sk);
	record.client = http->client;
	write_ends(&record, tcp);
	record.requests = __sync_lock_test_and_set(&http->requests, 0);
	record.latency_sum_ns = __sync_lock_test_and_set(&http->latency_sum_ns, 0);
	if (changed & STATUSES_CHANGED) {
		for (i = 0; i < MOST_STATUSES; i++)
			take_out(&http->statuses[i].count, HTTP_PAIR_STATUS, http->statuses[i].code, &record, seq);
		for (i = 0; i < CLASSES; i++)
			take_out(&http->untold[i], HTTP_PAIR_CLASS, i + 1, &record, seq);
	}
	for (octave = 0; octave < OCTAVES; octave++) {
		if (!(changed >> octave & 1))
			continue;
		for (i = octave * BINS_OF_OCTAVE; i < (octave + 1) * BINS_OF_OCTAVE; i++)
			take_out(&http->bins[i], HTTP_PAIR_LATENCY, LEAST_BIN + i, &record, seq);
	}
	if (record.pairs || record.requests || record.latency_sum_ns)
		write_record(&record, seq);
}

/* Tells what is known of a first request by *record*, which is that of its place. */
static __always_inline void report_first_request(u64 exchange, struct http_record *record, struct seq_file *seq)
{
	u32 status = status_of(exchange);

	record->requests = !(exchange & FIRST_TOLD);
	if (status) {
		record->latency_sum_ns = exchange >> FIRST_LATENCY;
		http_add_pair(record, HTTP_PAIR_STATUS, status, 1);
		http_add_pair(record, HTTP_PAIR_LATENCY, LEAST_BIN + bin_of(record->latency_sum_ns), 1);
	}
	if (record->pairs || record->requests)
		write_record(record, seq);
}

static __always_inline void close_first_request(struct sock *sk)
{
	u64 cookie = sk->__sk_common.skc_cookie.counter, exchange;
	struct http_first_request *first = place_of(cookie);
	struct http_record record;

	if (!has_place(first, cookie))
		return;
	record = first->record;
	exchange = __sync_lock_test_and_set(&first->exchange, 0);
	leave_place(first, cookie);
	if (exchange)
		report_first_request(exchange, &record, NULL);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(http_socket_closed, struct sock *sk, int old_state, int new_state)
{
	if (new_state != TCP_CLOSE || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	close_first_request(sk);
	report_http(sk, NULL);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int http_of_sockets(struct bpf_iter__bpf_sk_storage_map *context)
{
	struct sock *sk = context->sk;
	struct seq_file *seq = context->meta->seq;

	if (!sk)
		return 0;
	/* What is taken out must find room: where it may not, the kernel is to come again once the buffer was read. */
	if (seq->size - seq->count <= MOST_RECORDS * sizeof(struct http_record))
		return 1;
	report_http(sk, seq);
	return 0;
}

SEC("iter/bpf_map_elem")
int http_of_first_requests(struct bpf_iter__bpf_map_elem *context)
{
	struct http_first_request *first = context->value;
	struct seq_file *seq = context->meta->seq;
	struct http_record record;
	u64 exchange;

	if (!first)
		return 0;
	exchange = first->exchange;
	if (!exchange || exchange == told(exchange))
		return 0;
	if (seq->size - seq->count <= sizeof(record)) /* it is never filled to the last byte */
		return 1;
	/* What follows is read later, on processors that read in any order as well. */
	if (__sync_val_compare_and_swap(&first->exchange, exchange, exchange) != exchange)
		return 0;
	record = first->record;
	/* It is as good as never the same twice: so where it still is, the record is that of the same socket. */
	if (__sync_val_compare_and_swap(&first->exchange, exchange, told(exchange)) == exchange)
		report_first_request(exchange, &record, seq);
	return 0;
}
