// Processes: an event where one executes another program, or is forked.
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "records.h"

char LICENSE[] SEC("license") = "GPL";

RING(events, 1 << 20)

const struct exec_record *exec_record; /* puts the struct into the object's BTF */

/* The arguments are in the memory of the current task, and a forked child's are the same. */
static __always_inline void tell(struct task_struct *task, struct mm_struct *memory)
{
	struct task_struct *leader = task->group_leader;
	unsigned long start = memory->arg_start;
	struct exec_record *record;
	u64 length;

	record = reserve_events(sizeof(*record));
	if (!record)
		return;
	__builtin_memset(record, 0, sizeof(*record));
	record->pid = task->tgid;
	record->parent_pid = leader->real_parent->tgid;
	record->process_start_ns = leader->start_boottime;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), leader->comm);
	length = memory->arg_end - start;
	if (length > sizeof(record->arguments))
		length = sizeof(record->arguments);
	if (!bpf_probe_read_user(record->arguments, length, (void *)start))
		record->arguments_length = length;
	submit_events(record);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_executed, struct task_struct *task, s32 old_pid, struct linux_binprm *program)
{
	tell(task, task->mm);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_forked, struct task_struct *parent, struct task_struct *child)
{
	struct mm_struct *memory = parent->mm;

	/* Threads are of the same process, and those of the kernel have no arguments. */
	if (child->tgid != parent->tgid && memory)
		tell(child, memory);
	return 0;
}
