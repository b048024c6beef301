/* Ring buffers of events. A ring has its name, a size that is a power of two, and two counters. */
#pragma once

/* Defines the ring and, for it, reserve_NAME(size) and submit_NAME(event).
 *
 * The reader comes by itself now and then. It is woken, once, only where a quarter of the ring waits for it: a wake-up
 * costs more than all else here. */
#define RING(name, bytes) \
	struct { \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes); \
	} name SEC(".maps"); \
\
	u64 name##_lost; /* the ring was full */ \
	u32 name##_reader_woken; /* the reader clears it before it drains */ \
\
	static __always_inline __attribute__((unused)) void *reserve_##name(u64 size) \
	{ \
		void *event = bpf_ringbuf_reserve(&name, size, 0); \
\
		if (!event) \
			__sync_fetch_and_add(&name##_lost, 1); \
		return event; \
	} \
\
	static __always_inline __attribute__((unused)) void submit_##name(void *event) \
	{ \
		u64 flags = BPF_RB_NO_WAKEUP; \
\
		if (bpf_ringbuf_query(&name, BPF_RB_AVAIL_DATA) > (bytes) / 4 && !name##_reader_woken) { \
			name##_reader_woken = 1; \
			flags = BPF_RB_FORCE_WAKEUP; \
		} \
		bpf_ringbuf_submit(event, flags); \
	}
