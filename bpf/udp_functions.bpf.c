// UDP counted in the kernel's own functions for it (fentry), where the kernel allows that: packets of TCP never come here.
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "records.h"
#include "sockets.h"
#include "udp.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline bool read_addresses(u8 *header, u8 *source, u8 *destination)
{
	u8 read[40]; /* the longer of the two headers; a packet has that much in one piece, or other data after it */

	if (bpf_probe_read_kernel(read, sizeof(read), header))
		return 0;
	if (read[0] >> 4 == 4) {
		write_mapped_ipv4(source, *(u32 *)(read + 12));
		write_mapped_ipv4(destination, *(u32 *)(read + 16));
	} else {
		__builtin_memcpy(source, read + 8, 16);
		__builtin_memcpy(destination, read + 24, 16);
	}
	return 1;
}

static __always_inline void count_skb(struct sock *sk, struct sk_buff *skb, bool sent)
{
	u8 *head = skb->head, *header = head + skb->network_header, *transport = head + skb->transport_header;
	struct udp_peer peer = {};
	u16 ports[2];
	u32 bytes;

	if (!sk || sk->sk_protocol != IPPROTO_UDP)
		return;
	if (bpf_probe_read_kernel(ports, sizeof(ports), transport))
		return;
	if (!read_addresses(header, sent ? peer.local_address : peer.remote_address,
			    sent ? peer.remote_address : peer.local_address))
		return;
	peer.cookie = bpf_get_socket_cookie(sk);
	peer.local_port = bpf_ntohs(ports[sent ? 0 : 1]);
	peer.remote_port = bpf_ntohs(ports[sent ? 1 : 0]);
	/* The data begins at the IP header of what is sent, and after the UDP header of what was received. */
	bytes = skb->len - (transport + UDP_HEADER_BYTES - skb->data);
	count_udp(&peer, bytes, BPF_CORE_READ((struct skb_shared_info *)(head + skb->end), gso_size), sent, NULL, sk);
}

SEC("fentry/ip_send_skb")
int BPF_PROG(udp_sent_ipv4, struct net *net, struct sk_buff *skb)
{
	count_skb(skb->sk, skb, 1);
	return 0;
}

SEC("fentry/ip6_send_skb")
int BPF_PROG(udp_sent_ipv6, struct sk_buff *skb)
{
	count_skb(skb->sk, skb, 1);
	return 0;
}

/* Of both versions; what it drops for want of room has reached the socket. */
SEC("fentry/__udp_enqueue_schedule_skb")
int BPF_PROG(udp_received, struct sock *sk, struct sk_buff *skb)
{
	count_skb(sk, skb, 0);
	return 0;
}
