"""What may happen to a cluster and its collector, at random.

    python -m tests.lab.kubernetes_chaos --seconds 300

makes a control plane, lets it happen for so long, and fails unless the reducer knows then what the server has.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.entity_sink import EntitySink
from tests.lab.k8s_collector import (
    NODES,
    expected_pods,
    start_collector,
    told_pods,
    wait_until_equal,
    wait_until_running,
    workload,
    wrongly_named,
)
from tests.lab.kubernetes import ControlPlane
from tests.lab.programs import Programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.kubernetes import Object
    from tests.lab.programs import Program

DEPLOYMENTS = ("chaos-a", "chaos-b", "chaos-c")
REPLICAS, MOST_REPLICAS = 3, 8
LONGEST_OUTAGE_S = 4.0
LONGEST_PAUSE_S = 1.0
# Controllers wait up to half a minute, each watch for itself, before they ask a server again that was away.
SETTLED_WITHIN_S = 240.0


class Chaos:
    """Steps that happen to a cluster, each at least once in a long enough run.

    Attributes:
        happened: how often each did.

    """

    def __init__(self, control_plane: ControlPlane, sink: EntitySink, collector: Program, random: Random) -> None:
        self._control_plane = control_plane
        self._sink = sink
        self._collector = collector
        self._random = random
        self._steps = {
            self.server_killed: 1,
            self.history_compacted: 2,
            self.reducer_disconnected: 1,
            self.workload_scaled: 6,
            self.workload_rolled_out: 2,
            self.pod_deleted: 2,
        }
        # No Deployment is deleted: its pods may outlive their ReplicaSet for minutes where the server was away; then
        # the collector knows an owner that the server does not know any more.
        self.happened: Counter[str] = Counter()
        # A rollout does not wait for new pods to be ready: kwok's are never ready again once a node was lost.
        strategy = {"rollingUpdate": {"maxUnavailable": "100%"}}
        for name in DEPLOYMENTS:
            control_plane.create(workload("Deployment", name, REPLICAS, strategy=strategy))
        # Controllers whose server goes while they start end.
        self._wait_until_running(60)

    def run(self, seconds: float) -> None:
        """Let it happen for so long, and longer until each step was taken once; the server is there afterwards."""
        end = time.monotonic() + seconds
        due = list(self._steps)
        self._random.shuffle(due)
        while due or time.monotonic() < end:
            # What happens while the collector stands still it has to find out by itself.
            stands_still = self._random.random() < 0.3
            if stands_still:
                self._collector.pause()
                self.happened["collector paused"] += 1
            try:
                for _ in range(self._random.randint(1, 3)):
                    self._take(due.pop() if due else self._any())
            finally:
                if stands_still:
                    self._collector.resume()

    def settle(self) -> None:
        """Have the controllers make as many pods as before: they wait longer and longer for a server that is away."""
        # kwok does not repeat a request of which the server was killed: such a pod would never run, or never be gone.
        for pod in self._control_plane.list("Pod", "default"):
            if "deletionTimestamp" in pod["metadata"] or "podIP" not in pod["status"]:
                self._delete(pod["metadata"]["name"], grace_s=0)
        for name in DEPLOYMENTS:
            self._control_plane.patch("Deployment", name, {"spec": {"replicas": REPLICAS}})
        self._wait_until_running(SETTLED_WITHIN_S)

    def _wait_until_running(self, timeout_s: float) -> None:
        wait_until_running(self._control_plane, "default", REPLICAS * len(DEPLOYMENTS), timeout_s)

    def server_killed(self) -> None:
        self._control_plane.api_server.kill()
        time.sleep(self._random.random() * LONGEST_OUTAGE_S)
        self._control_plane.start_api_server()

    def history_compacted(self) -> None:
        self._control_plane.compact()

    def reducer_disconnected(self) -> None:
        self._sink.disconnect()

    def workload_scaled(self) -> None:
        self._change({"replicas": self._random.randint(0, MOST_REPLICAS)})

    def workload_rolled_out(self) -> None:
        container = {"name": "main", "image": f"registry/chaos:{self._random.randint(1, 1000)}"}
        self._change({"template": {"spec": {"containers": [container]}}})

    def pod_deleted(self) -> None:
        pods = [pod["metadata"]["name"] for pod in self._control_plane.list("Pod", "default")]
        if pods:
            self._delete(self._random.choice(pods))

    def _delete(self, pod: str, grace_s: int | None = None) -> None:
        try:
            self._control_plane.delete("Pod", pod, grace_s=grace_s)
        except AssertionError as error:
            if "404" not in str(error):  # else it is gone by now
                raise

    def _change(self, spec: Object) -> None:
        self._control_plane.patch("Deployment", self._one(), {"spec": spec})

    def _take(self, step: Callable[[], None]) -> None:
        step()
        self.happened[step.__name__.replace("_", " ")] += 1
        time.sleep(self._random.random() * LONGEST_PAUSE_S)

    def _any(self) -> Callable[[], None]:
        [step] = self._random.choices(list(self._steps), list(self._steps.values()))
        return step

    def _one(self) -> str:
        return self._random.choice(DEPLOYMENTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        sink = EntitySink()
        stack.callback(sink.close)
        programs = Programs(Path(directory))
        stack.callback(programs.close)
        control_plane = ControlPlane(programs, Path(directory) / "kubernetes")
        control_plane.add_nodes(NODES)
        collector = start_collector(programs, sink, control_plane.admin)
        chaos = Chaos(control_plane, sink, collector, Random(arguments.seed))
        chaos.run(arguments.seconds)
        chaos.settle()
        end = time.monotonic()
        try:
            wait_until_equal(sink, control_plane)
        except AssertionError:
            told, expected = told_pods(sink.view.pods), expected_pods(control_plane)
            differing = [uid for uid in told.keys() | expected.keys() if told.get(uid) != expected.get(uid)]
            for uid in differing:
                sys.stderr.write(f"told: {told.get(uid)}\nbut is: {expected.get(uid)}\n")
            sys.stderr.write(f"{wrongly_named(sink, expected)}\n{collector.tail()}\n")
            raise
        sys.stdout.write(
            f"{dict(chaos.happened)}\n"
            f"{len(told_pods(sink.view.pods))} pods, equal {time.monotonic() - end:.1f} s after that; "
            f"{len(sink.sessions)} session, {len(sink.hellos)} connections, {sink.statistics}\n"
        )
        status = collector.stop()
        sys.exit(status or "Traceback" in collector.output())


if __name__ == "__main__":
    main()
