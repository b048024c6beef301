/* UDP counted where packets pass a socket (cgroup_skb). */
#pragma once

static __attribute__((noinline)) void count_udp_packet(struct packet *packet)
{
	struct __sk_buff *skb = packet->skb;
	struct udp_peer peer = {};
	struct bpf_sock *sk;
	u16 ports[2];

	sk = skb->sk;
	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return;
	if (bpf_skb_load_bytes(skb, packet->transport, ports, sizeof(ports)))
		return;
	if (skb->len < packet->transport + UDP_HEADER_BYTES)
		return;
	peer.cookie = bpf_get_socket_cookie(skb);
	if (packet->sent) {
		write_packet_addresses(packet, peer.local_address, peer.remote_address);
		peer.local_port = bpf_ntohs(ports[0]);
		peer.remote_port = bpf_ntohs(ports[1]);
	} else {
		write_packet_addresses(packet, peer.remote_address, peer.local_address);
		peer.local_port = bpf_ntohs(ports[1]);
		peer.remote_port = bpf_ntohs(ports[0]);
	}
	count_udp(&peer, skb->len - packet->transport - UDP_HEADER_BYTES, skb->gso_size, packet->sent, skb, NULL);
}
