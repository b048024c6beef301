from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_collector.workloads.cgroup_paths import LONGEST_NAME, NOWHERE, Place, place_of

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "3f1cc5a2-91b2-4a52-8ba0-cd6a2c8e5c10"
UNDERLINED = UID.replace("-", "_")
TASK = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
POD_SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERLINED}.slice"
KIND = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERLINED}.slice"

CASES = {
    # Docker
    f"/system.slice/docker-{ID}.scope": Place(container_id=ID, runtime="docker"),
    f"/docker/{ID}": Place(container_id=ID, runtime="docker"),
    f"/docker/{ID}/init.scope": Place(container_id=ID, runtime="docker"),
    f"/docker/{ID}/system.slice/nginx.service": Place("nginx", container_id=ID, runtime="docker"),
    f"/docker/{ID}/docker/{OTHER}": Place(container_id=OTHER, runtime="docker"),
    f"/system.slice/docker.service/docker/{ID}": Place(container_id=ID, runtime="docker"),
    "/docker": NOWHERE,
    "/docker/buildkit/ab12cd34ef56": NOWHERE,
    f"/../{ID}": Place(container_id=ID),
    f"/actions_job/{ID}": Place(container_id=ID),
    # podman
    f"/machine.slice/libpod-{ID}.scope": Place(container_id=ID, runtime="libpod"),
    f"/machine.slice/libpod-{ID}.scope/container": Place(container_id=ID, runtime="libpod"),
    f"/libpod_parent/libpod-{ID}": Place(container_id=ID, runtime="libpod"),
    f"/libpod_parent/{ID}": Place(container_id=ID, runtime="libpod"),
    f"/machine.slice/libpod-conmon-{ID}.scope": NOWHERE,
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container": Place(
        container_id=ID, runtime="libpod"
    ),
    # Kubernetes, the systemd driver
    f"{POD_SLICE}/cri-containerd-{ID}.scope": Place("", UID, ID, "containerd"),
    f"{POD_SLICE}/crio-{ID}.scope": Place("", UID, ID, "crio"),
    f"{POD_SLICE}/crio-conmon-{ID}.scope": Place("", UID),
    f"{POD_SLICE}/docker-{ID}.scope": Place("", UID, ID, "docker"),
    POD_SLICE: Place("", UID),
    f"/kubepods.slice/kubepods-pod{UNDERLINED}.slice/cri-containerd-{ID}.scope": Place("", UID, ID, "containerd"),
    f"{KIND}/cri-containerd-{ID}.scope": Place("", UID, ID, "containerd"),
    f"/docker/{OTHER}{KIND}/cri-containerd-{ID}.scope": Place("", UID, ID, "containerd"),
    f"/system.slice/containerd.service/kubepods-besteffort-pod{UNDERLINED}.slice:cri-containerd:{ID}": Place(
        "", UID, ID, "containerd"
    ),
    # Kubernetes, the cgroupfs driver
    f"/kubepods/burstable/pod{UID}/{ID}": Place("", UID, ID),
    f"/kubepods/pod{UID}/{ID}": Place("", UID, ID),
    f"/kubepods/besteffort/pod{UID.replace('-', '')}/{ID}": Place("", UID, ID),
    "/kubepods/besteffort": NOWHERE,
    # ECS, Nomad
    f"/ecs/{TASK}/{ID}": Place(container_id=ID, runtime="docker"),
    f"/ecs/{TASK}/{TASK}-1234567890": Place(container_id=f"{TASK}-1234567890", runtime="docker"),
    f"/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope": Place(container_id=ID, runtime="docker"),
    f"/nomad.slice/share.slice/{UID}.web.scope": Place(container_id=UID, runtime="nomad", nomad_task="web"),
    f"/nomad.slice/docker-{ID}.scope": Place(container_id=ID, runtime="docker"),
    f"/other.slice/{UID}.web.scope": NOWHERE,
    # systemd
    "/system.slice/nginx.service": Place("nginx"),
    "/system.slice/nginx.service/workers/1": Place("nginx"),
    "/system.slice/system-postgresql.slice/postgresql@15-main.service": Place("postgresql@15-main"),
    "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service": Place("syncthing"),
    "/user.slice/user-1000.slice/user@1000.service/init.scope": NOWHERE,
    "/user.slice/user-1000.slice/session-3.scope": NOWHERE,
    "/system.slice/ssh.socket": NOWHERE,
    "/init.scope": NOWHERE,
    "/": NOWHERE,
    "": NOWHERE,
    # what is nearly an id
    f"/docker/{ID[1:]}": NOWHERE,
    f"/docker/{ID}0": NOWHERE,
    f"/docker/{ID.upper()}": NOWHERE,
    f"/kubepods/pod{UID[1:]}/{ID}": Place(container_id=ID),
    "/system.slice/\x1b[31m\n.service": Place("\N{REPLACEMENT CHARACTER}[31m "),
    f"/{'x' * 500}.service": Place("x" * LONGEST_NAME),
}


@pytest.mark.parametrize(("path", "place"), CASES.items(), ids=[path[:60] for path in CASES])
def test_places(path, place):
    assert place_of(path) == place


PIECES = [
    "/",
    "docker",
    "-",
    ":",
    ".scope",
    ".slice",
    ".service",
    "pod",
    ID,
    UID,
    UNDERLINED,
    "ecs",
    "nomad.slice",
    "\0",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join))
def test_hostile_paths_give_short_printable_text(path):
    place = place_of(path)
    for value in (place.service, place.pod_uid, place.container_id, place.runtime, place.nomad_task):
        assert value.isprintable()
        assert len(value) <= LONGEST_NAME
