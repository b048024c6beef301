/* UDP counted where packets pass a socket (cgroup_skb). */
#pragma once

/* A function of its own, so that its stack is not added to that of others; the verifier before Linux 6.4 does not follow
 * what a caller's stack holds, so it reads the headers itself. */
static __attribute__((noinline)) void count_udp_packet(struct __sk_buff *skb, bool sent)
{
	struct udp_peer peer = {};
	struct packet packet;
	struct bpf_sock *sk;
	u16 ports[2];

	if (!read_headers(skb, sent, &packet))
		return;
	sk = skb->sk;
	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return;
	if (bpf_skb_load_bytes(skb, packet.transport, ports, sizeof(ports)))
		return;
	if (skb->len < packet.transport + UDP_HEADER_BYTES)
		return;
	peer.cookie = bpf_get_socket_cookie(skb);
	if (sent) {
		write_packet_addresses(&packet, peer.local_address, peer.remote_address);
		peer.local_port = bpf_ntohs(ports[0]);
		peer.remote_port = bpf_ntohs(ports[1]);
	} else {
		write_packet_addresses(&packet, peer.remote_address, peer.local_address);
		peer.local_port = bpf_ntohs(ports[1]);
		peer.remote_port = bpf_ntohs(ports[0]);
	}
	count_udp(&peer, skb->len - packet.transport - UDP_HEADER_BYTES, skb->gso_size, sent, skb, NULL);
}
