/* The ring buffer of events. Whoever includes this defines RING_BYTES, a power of two, first. */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

u64 events_lost; /* the ring was full */
u32 reader_woken; /* the reader clears it before it drains */

static __always_inline void *reserve_event(u64 size)
{
	void *event = bpf_ringbuf_reserve(&events, size, 0);

	if (!event)
		__sync_fetch_and_add(&events_lost, 1);
	return event;
}

/* The reader comes by itself now and then. It is woken, once, only where a quarter of the ring waits for it: a wake-up
 * costs more than all else here. */
static __always_inline void submit_event(void *event)
{
	u64 flags = BPF_RB_NO_WAKEUP;

	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 4 && !reader_woken) {
		reader_woken = 1;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	bpf_ringbuf_submit(event, flags);
}
