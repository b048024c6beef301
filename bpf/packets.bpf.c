// Everything that must look at packets: one program a direction, since a second one on each packet costs more than a
// branch. What belongs to a concern has its name in front, and is neither made nor loaded where it is not watched.
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* Set before load; the verifier removes what is not watched. */
const volatile bool udp_watched = 0;
const volatile bool http_watched = 0;

#include "records.h"
#include "sockets.h"
#include "packet.h"
#include "udp.h"
#include "udp_packet.h"
#include "events.h"
#include "latency.h"
#include "dns_message.h"
#include "dns_answers.h"
#include "dns.h"
#include "dns_stream.h"
#include "http.h"
#include "http_report.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline void inspect(struct __sk_buff *skb, bool sent)
{
	struct packet packet;

	if (!read_headers(skb, sent, &packet))
		return;
	if (packet.protocol == IPPROTO_UDP) {
		if (udp_watched)
			count_udp_packet(skb, sent);
	} else if (packet.protocol == IPPROTO_TCP) {
		if (http_watched)
			http_take_segment(skb, packet.transport, sent);
	}
	if (dns_watched)
		take_dns(&packet);
}

SEC("cgroup_skb/egress")
int packet_sent(struct __sk_buff *skb)
{
	inspect(skb, 1);
	return 1; /* let it pass */
}

SEC("cgroup_skb/ingress")
int packet_received(struct __sk_buff *skb)
{
	inspect(skb, 0);
	return 1;
}
