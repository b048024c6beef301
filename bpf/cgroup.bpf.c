// Cgroups: an event where one is made, so that one that is soon gone has told its path.
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "records.h"

char LICENSE[] SEC("license") = "GPL";

RING(events, 1 << 18)

const struct cgroup_record *cgroup_record; /* puts the struct into the object's BTF */

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_made, struct cgroup *cgroup, const char *path)
{
	struct cgroup_record *record;

	if (cgroup->root->hierarchy_id) /* of cgroup v1: sockets are in v2's */
		return 0;
	record = reserve_events(sizeof(*record));
	if (!record)
		return 0;
	record->id = cgroup->kn->id;
	if (bpf_probe_read_kernel_str(record->path, sizeof(record->path), path) < 0)
		record->path[0] = 0;
	/* The reader is woken at once: what runs in it may be gone before long, and then nobody can say more of it. */
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
	return 0;
}
