"""The BPF objects, compiled from bpf/ by the build."""
