// Processes: an event where one executes another program.
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "records.h"

char LICENSE[] SEC("license") = "GPL";

RING(events, 1 << 20)

const struct exec_record *exec_record; /* puts the struct into the object's BTF */

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_executed, struct task_struct *task, s32 old_pid, struct linux_binprm *program)
{
	struct task_struct *leader = task->group_leader;
	unsigned long start = task->mm->arg_start;
	struct exec_record *record;
	u64 length;

	record = reserve_events(sizeof(*record));
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->pid = task->tgid;
	record->process_start_ns = leader->start_boottime;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), leader->comm);
	length = task->mm->arg_end - start;
	if (length > sizeof(record->arguments))
		length = sizeof(record->arguments);
	if (!bpf_probe_read_user(record->arguments, length, (void *)start))
		record->arguments_length = length;
	submit_events(record);
	return 0;
}
