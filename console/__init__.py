"""The command `ebpf-net`, for what spans the daemons."""
