"""Fixtures of the lab; a failed test shows what its programs wrote."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.api_proxy import ApiProxy
from tests.entity_sink import EntitySink
from tests.lab.daemons import Lab
from tests.lab.disk import small_disk
from tests.lab.k8s_collector import MANIFEST, NAMESPACE, NAMESPACE_MANIFEST, NODES
from tests.lab.kubernetes import ADMIN_TOKEN, ControlPlane
from tests.lab.network import Network
from tests.lab.programs import Programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.network import Host

HERE = Path(__file__).parent
LABS = pytest.StashKey[list[Lab]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip("needs root, for network namespaces and BPF"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        programs = [program for lab in item.stash.get(LABS, []) for program in lab.programs.started]
        report.sections += [(f"output of {program}", program.tail()) for program in programs]
    return report


@pytest.fixture
def new_lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Lab]]:
    """Make labs that know nothing of each other, each with a centre and no hosts."""
    labs = request.node.stash[LABS] = []

    def make() -> Lab:
        directory = tmp_path / f"lab{len(labs)}"
        directory.mkdir()
        labs.append(Lab(directory))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def lab(new_lab: Callable[[], Lab]) -> Lab:
    """One lab."""
    return new_lab()


@pytest.fixture
def host() -> Iterator[Host]:
    """A host on a network of its own, without a lab."""
    with contextlib.closing(Network()) as network:
        yield network.centre


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the rights that the manifest gives."""
    directory = tmp_path_factory.mktemp("kubernetes")
    programs = Programs(directory)
    try:
        started = ControlPlane(programs, directory)
        started.add_nodes(NODES)
        # What kubectl apply -f would do; there is no image, so the pods of the Deployment never are on a node.
        for manifest in (NAMESPACE_MANIFEST, MANIFEST):
            started.apply(yaml.safe_load_all(manifest.read_text()))
        yield started
    finally:
        programs.close()


@pytest.fixture
def sink() -> Iterator[EntitySink]:
    """A reducer that collectors tell what they see."""
    listening = EntitySink()
    yield listening
    listening.close()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs on the machine itself, without a lab."""
    started = Programs(tmp_path)
    yield started
    for program in started.started:
        print(f"--- {program}\n{program.tail()}")  # noqa: T201
    started.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, which `fill` fills."""
    with small_disk(tmp_path / "disk", 2 << 20) as place:
        yield place


@pytest.fixture
def account(control_plane: ControlPlane) -> Path:
    """A kubeconfig with the rights that the manifest gives, and no other."""
    return control_plane.kubeconfig("account", control_plane.token("k8s-collector", NAMESPACE))


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the cluster, with the test's name."""
    name = re.sub("[^a-z]+", "-", request.node.name.lower())[-50:].strip("-")
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    control_plane.delete("Namespace", name)


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    """What stands in front of the API server, and uses the administrator's rights."""
    standing = ApiProxy(control_plane.url, ADMIN_TOKEN, str(control_plane.ca_file))
    yield standing
    standing.close()
