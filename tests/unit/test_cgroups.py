from __future__ import annotations

import functools

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.records import cgroup_record_dtype
from kernel_collector.objects import OBJECTS
from kernel_collector.workloads import cgroups
from kernel_collector.workloads import cgroups as module
from kernel_collector.workloads.cgroups import FIRST_V1_ID, WALK_PAUSE_NS, CgroupTable

ID, OTHER = "ab" * 32, "cd" * 32


class AskedDocker:
    """Takes questions, and gives the answers of the test."""

    def __init__(self):
        self.asked, self.answers, self.failures, self.room = [], [], 0, True

    def ask(self, container_id):
        if self.room:
            self.asked.append(container_id)
        return self.room

    def take(self):
        answers, self.answers = self.answers, []
        return answers


class World:
    """A hierarchy, a clock, and a table that looks at them."""

    def __init__(self, **options):
        self.paths = {1: "/", 5: "/system.slice/nginx.service", 6: "/user.slice"}
        self.now_ns = 0
        self.walks = 0
        self.docker = AskedDocker()
        self.table = CgroupTable(self.walk, self.docker, lambda: self.now_ns, **options)

    def walk(self):
        self.walks += 1
        return self.paths

    def refer(self, *ids):
        self.table.refer(np.array(ids, np.uint64))
        return self.told()

    def told(self):
        return {cgroup.id: cgroup for cgroup in self.table.take_changes()[0]}

    def created(self, **paths):
        self.table.created(records(*((int(key[1:]), path) for key, path in paths.items())))


@functools.cache
def dtype():
    return cgroup_record_dtype(BpfObject(OBJECTS / "cgroup.bpf.o").btf)


def records(*rows):
    array = np.zeros(len(rows), dtype())
    for record, (number, path) in zip(array, rows, strict=True):
        record["id"], record["path"] = number, path.encode()
    return array


@pytest.fixture
def world():
    return World()


def test_what_the_first_walk_found_is_told_when_a_row_refers_to_it(world):
    assert world.told() == {}
    assert world.refer(5, 5, 1, 0, 6) == {5: intake_pb2.Cgroup(id=5, service="nginx")}
    world.table.submitted([5], 1)
    assert world.refer(5) == {}
    assert world.walks == 1
    assert world.table.messages() == [intake_pb2.Cgroup(id=5, service="nginx")]


def test_what_was_made_is_told_without_a_walk_though_it_is_gone(world):
    world.created(_9=f"/docker/{ID}")
    assert world.refer(9) == {9: intake_pb2.Cgroup(id=9, container_id=ID, runtime="docker")}
    assert world.walks == 1


def test_unknown_ids_are_walked_for_now_and_then(world):
    world.paths[9] = "/system.slice/late.service"
    assert world.refer(9) == {}
    world.now_ns = WALK_PAUSE_NS
    assert world.refer(9, 10)[9].service == "late"
    world.now_ns *= 3
    world.refer(10)
    assert world.walks == 2  # 10 is known to be gone


def test_ids_beyond_what_a_walk_sees_are_counted(world, monkeypatch):
    world.now_ns = WALK_PAUSE_NS
    world.refer(9)
    assert world.table.untracked == 0
    monkeypatch.setattr(cgroups, "MOST_DIRECTORIES", len(world.paths))
    world.now_ns *= 3
    world.refer(9, 10)
    assert (world.walks, world.table.untracked) == (3, 1)


def test_docker_is_asked_when_its_cgroup_is_made_and_once_only(world):
    world.created(_9=f"/docker/{ID}", _10=f"/docker/{ID}/init", _11=f"/kubepods/x/{OTHER}")
    assert world.docker.asked == [ID]
    world.refer(9, 10, 11)
    assert world.docker.asked == [ID]


def test_every_container_is_asked_about_where_that_is_wanted():
    world = World(every_container=True)
    world.created(_11=f"/kubepods/x/{OTHER}", _12="/system.slice/a.service")
    assert world.docker.asked == [OTHER]


def test_a_question_without_room_is_asked_again(world):
    world.docker.room = False
    world.created(_9=f"/docker/{ID}")
    world.docker.room = True
    world.refer(9)
    assert world.docker.asked == [ID]
    assert world.table.undescribed == 1


def test_an_answer_before_the_first_row_comes_with_it(world):
    world.created(_9=f"/docker/{ID}")
    world.docker.answers = [(ID, intake_pb2.Cgroup(container_name="web"))]
    assert world.told() == {}
    assert world.refer(9)[9] == intake_pb2.Cgroup(id=9, container_id=ID, runtime="docker", container_name="web")


def test_an_answer_after_the_first_row_is_told_again(world):
    world.created(_9=f"/docker/{ID}", _10=f"/docker/{ID}/init")
    assert world.refer(9, 10)[9].container_name == ""
    world.table.submitted([9, 10], 1)
    world.docker.answers = [(ID, intake_pb2.Cgroup(container_name="web")), (OTHER, intake_pb2.Cgroup())]
    told = world.told()
    assert {number: cgroup.container_name for number, cgroup in told.items()} == {9: "web", 10: "web"}
    assert told[9].runtime == "docker"


def test_what_docker_said_unasked_names_the_container_until_it_answers(world):
    world.docker.answers = [(ID, intake_pb2.Cgroup(container_name="web"))]
    assert world.told() == {}
    world.created(_9=f"/docker/{ID}")
    assert world.docker.asked == [ID]
    assert world.refer(9)[9].container_name == "web"
    world.docker.answers = [(ID, intake_pb2.Cgroup(container_name="web", nomad_job="shop"))]
    assert world.told()[9].nomad_job == "shop"
    world.docker.answers = [(ID, intake_pb2.Cgroup(container_name="web"))]
    assert world.told()[9].nomad_job == "shop"


def test_what_docker_said_unasked_is_kept_up_to_a_bound(world, monkeypatch):
    monkeypatch.setattr(module, "MOST_CGROUPS", 2)
    world.docker.answers = [(name * 32, intake_pb2.Cgroup(container_name=name)) for name in ("ab", "cd", "ef")]
    world.told()
    world.created(_9=f"/docker/{ID}", _10=f"/docker/{OTHER}")
    found = world.refer(9, 10)
    assert (found[9].container_name, found[10].container_name) == ("", "cd")


def test_retired_when_nothing_refers_to_it(world):
    world.created(_9=f"/docker/{ID}")
    world.refer(5, 9)
    world.table.submitted([5, 9], 3)
    world.table.retire({5}, acknowledged=2)
    assert world.table.take_changes() == ([], [])
    world.table.retire({5}, acknowledged=3)
    assert world.table.take_changes() == ([], [9])
    assert len(world.table) == 1
    world.docker.answers = [(ID, intake_pb2.Cgroup(container_name="web"))]
    assert world.told() == {}
    assert world.refer(9)[9].container_name == "web"  # a socket of it is accepted after all


def test_the_bound():
    world = World(most=2)
    world.created(_7="/a.service", _8="/b.service", _9="/c.service")
    assert sorted(world.refer(7, 8, 9)) == [7, 8]
    assert world.table.untracked == 1


def test_cgroups_of_processes(world):
    of = world.table.of_process
    first = of(["/system.slice/docker.service", f"/docker/{ID}", "/"])
    assert first == FIRST_V1_ID
    assert of([f"/docker/{ID}"]) == first
    assert of(["/system.slice/cron.service", "/"]) == first + 1
    assert (of(["/", "/user.slice"]), of([])) == (0, 0)
    assert [cgroup.container_id or cgroup.service for cgroup in world.told().values()] == [ID, "cron"]
    world.table.submitted([], 1)
    world.table.retire({first}, 1)
    assert of(["/system.slice/cron.service"]) == first + 2


def test_cgroups_of_processes_are_bounded():
    world = World(most=1)
    assert world.table.of_process(["/a.service"]) == FIRST_V1_ID
    assert world.table.of_process(["/b.service"]) == 0
    assert world.table.untracked == 1
