/* Latencies as bins of a histogram. */
#pragma once

#define LONGEST_LATENCY_NS ((1ULL << 42) - 1) /* 73 minutes */

/* Returns the time in units of 2^-30 s, from 17 s on cut to 256 ns: else the product would not fit. */
static __always_inline u64 in_binary_fractions(u64 ns)
{
	if (ns >> 34)
		return ((ns >> 8) << 30) / 1000000000 << 8;
	return (ns << 30) / 1000000000;
}

/* Returns floor(8 * log2(t)), t the time in units of 2^-30 s (BinKind in proto/ebpf_net/v1/intake.proto). */
static __always_inline u32 latency_bin(u64 ns)
{
	u64 time, whole, above;
	u32 octave = 0, shift;

	if (ns > LONGEST_LATENCY_NS)
		ns = LONGEST_LATENCY_NS;
	time = whole = in_binary_fractions(ns);
	if (!time)
		return 0;
	for (shift = 32; shift; shift >>= 1) {
		above = time >> shift;
		if (above) {
			octave += shift;
			time = above;
		}
	}
	time = whole << (63 - octave);
	/* 2^(63 + k/8), k from 1 to 7 */
	return 8 * octave + (time >= 0x8b95c1e3ea8bd6e7) + (time >= 0x9837f0518db8a970) + (time >= 0xa5fed6a9b15138eb) +
	       (time >= 0xb504f333f9de6485) + (time >= 0xc5672a115506dade) + (time >= 0xd744fccad69d6af5) +
	       (time >= 0xeac0c6e7dd24392f);
}
