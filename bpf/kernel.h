/* The kernel's types, with just the members that the programs read. libbpf finds each member by its name in the running
 * kernel's BTF (CO-RE), so neither the order nor the size of what stands here matters, and one object serves every
 * kernel and architecture. */
#pragma once

#define NULL ((void *)0)

typedef _Bool bool;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
/* The names that libbpf's own headers use. */
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef s32 __s32;
typedef s64 __s64;
typedef u16 __be16;
typedef u32 __be32;
typedef u32 __wsum;

/* The kernel's interface with programs: include/uapi/linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_NOEXIST = 1, /* of an update */
	BPF_F_NO_PREALLOC = 1, /* of a map */
	BPF_SK_STORAGE_GET_F_CREATE = 1,
};

enum {
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
};

enum {
	BPF_RB_AVAIL_DATA = 0,
};

/* Values that user space sees and that never change. */
enum {
	AF_INET = 2,
	AF_INET6 = 10,
	IPPROTO_HOPOPTS = 0,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_DSTOPTS = 60,
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86DD,
	SO_EE_ORIGIN_ICMP = 2,
	SO_EE_ORIGIN_ICMP6 = 3,
};

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_CLOSING = 11,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

enum sock_flags {
	SOCK_DONE = 1,
};

enum skb_drop_reason { /* Linux 5.17 */
	SKB_DROP_REASON_NOT_SPECIFIED = 2, /* 1 before Linux 6.2 */
	SKB_DROP_REASON_TCP_INVALID_SEQUENCE = 33, /* the numbers of these vary */
	SKB_DROP_REASON_TCP_OLD_SEQUENCE = 34,
	SKB_DROP_REASON_QUEUE_PURGE = 104, /* Linux 6.10; its number varies */
};

struct ns_common {
	u32 inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	s64 counter;
} atomic64_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	u8 skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
	atomic64_t skc_cookie; /* 0 until somebody asked for it */
};

typedef struct {
	s32 counter;
} atomic_t;

struct numa_drop_counters { /* Linux 6.18 */
	atomic_t drops0;
	atomic_t drops1;
};

struct kernfs_node {
	u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sk_buff_head {
	struct sk_buff *prev; /* the last of them */
	u32 qlen;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_error_queue;
	struct sock_cgroup_data sk_cgrp_data;
	u16 sk_protocol;
	s32 sk_err;
	atomic_t sk_drops;
	struct numa_drop_counters *sk_drop_counters;
};

struct inet_sock {
	__be16 inet_sport;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct minmax_sample {
	u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u64 bytes_sent;
	u64 bytes_retrans;
	u64 bytes_received;
	u32 segs_out;
	u32 segs_in;
	u32 total_retrans;
	u32 srtt_us;
	struct minmax rtt_min;
};

struct nsproxy {
	struct net *net_ns;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
};

struct task_struct {
	s32 tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	u64 start_boottime;
	char comm[16];
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
};

struct socket {
	struct sock *sk;
};

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct sock *sk;
	struct net_device *dev;
	u32 len;
	__be16 protocol;
	u16 transport_header;
	u16 network_header;
	u32 end; /* from head on, to where struct skb_shared_info is */
	u8 *head;
	u8 *data;
	u8 cb[48];
};

struct sock_extended_err {
	u32 ee_errno;
	u8 ee_origin;
};

struct sock_exterr_skb { /* cb of what is in sk_error_queue */
	struct sock_extended_err ee;
};

struct skb_shared_info {
	u16 gso_size;
	u16 gso_segs;
};

struct trace_event_raw_kfree_skb {
	void *rx_sk; /* Linux 6.11 */
};

struct seq_file {
	unsigned long size;
	unsigned long count;
};

struct file;
struct linux_binprm;

/* The contexts of programs for cgroups. */
struct bpf_sock {
	u32 family;
	u32 protocol;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port; /* host byte order */
	__be16 dst_port;
	u32 dst_ip4;
	u32 dst_ip6[4];
	u32 state;
};

struct __sk_buff {
	u32 len;
	u32 protocol;
	u32 data;
	u32 data_end;
	u32 gso_size;
	struct bpf_sock *sk;
	u64 tstamp;
};

struct bpf_tcp_sock {
	u32 rcv_nxt;
	u32 snd_una;
	u64 bytes_received;
	u64 bytes_acked;
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct file *file;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *value;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop
