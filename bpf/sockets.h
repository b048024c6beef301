/* What the programs for sockets share: which are watched, and how addresses and owners are written into records. */
#pragma once

/* Set before load: whether only the sockets of network_namespaces count. */
const volatile bool network_namespaces_named = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u8);
} network_namespaces SEC(".maps");

static __always_inline bool is_watched(u32 network_namespace)
{
	return !network_namespaces_named || bpf_map_lookup_elem(&network_namespaces, &network_namespace);
}

static __always_inline u64 cgroup_of(struct sock *sk)
{
	/* Before 5.15 (8520e224f547) other things could stand in its place; without cgroups it is not there at all. */
	if (!bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return 0;
	return sk->sk_cgrp_data.cgroup->kn->id;
}

static __always_inline void write_mapped_ipv4(u8 *address, __be32 ipv4)
{
	*(u64 *)address = 0;
	*(u32 *)(address + 8) = bpf_htonl(0xffff);
	*(u32 *)(address + 12) = ipv4;
}

static __always_inline void write_ipv6(u8 *address, struct in6_addr *ipv6)
{
	*(u64 *)address = ((u64 *)ipv6)[0];
	*(u64 *)(address + 8) = ((u64 *)ipv6)[1];
}

static __always_inline void write_addresses(struct sock_common *common, u8 *local, u8 *remote)
{
	if (common->skc_family == AF_INET) {
		write_mapped_ipv4(local, common->skc_rcv_saddr);
		write_mapped_ipv4(remote, common->skc_daddr);
	} else if (bpf_core_field_exists(common->skc_v6_daddr)) { /* CONFIG_IPV6 */
		write_ipv6(local, &common->skc_v6_rcv_saddr);
		write_ipv6(remote, &common->skc_v6_daddr);
	}
}

static __always_inline void write_owner(struct task_struct *task, u64 *process_start_ns, u32 *pid, char *comm)
{
	struct task_struct *leader = task->group_leader;

	*pid = task->tgid;
	*process_start_ns = leader->start_boottime;
	bpf_probe_read_kernel(comm, sizeof(leader->comm), leader->comm);
}
