"""The laws of names: who had an address at a time names what was exchanged then, in whatever order it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ebpf_net.v1 import intake_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from intake.clock import SECOND_NS
from intake.limits import cut
from tests.flow_rows import POLL_NS, Feed, connector_row
from tests.rows import packed, session_id

LAW = settings(deadline=None, max_examples=60)
SLACK_S = POLL_NS // SECOND_NS
UNKNOWN = "(unknown)"
K8S = intake_pb2.COLLECTOR_KIND_K8S
POD_ADDRESSES = ("10.1.0.1", "10.1.0.2")
CLUSTERS = ("a", "b", "")


@dataclass(frozen=True)
class PodLife:
    """A pod that had an address of a cluster from one second to another (None: it still has it)."""

    cluster: str
    address: str
    start: int
    end: int | None

    @property
    def name(self) -> str:
        return f"{self.cluster}-{self.address}-{self.start}"

    def told(self, *, whole: bool) -> intake_pb2.Pod:
        """Return the pod's message, its end in it only if *whole*."""
        return intake_pb2.Pod(
            uid=self.name,
            name=self.name,
            owner_name=self.name,
            addresses=[packed(self.address)],
            start_time_unix_ns=self.start * SECOND_NS,
            end_time_unix_ns=(self.end or 0) * SECOND_NS if whole else 0,
        )


@dataclass(frozen=True)
class Exchange:
    """What a machine of a cluster sent to an address at a second, from a port of its own; no collector is there."""

    cluster: str
    address: str
    second: int
    port: int
    amount: int
    udp: bool


@st.composite
def pod_lives(draw):
    """The lives of pods, one after the other at each address of each cluster, in the 30 s of a window."""
    lives = []
    for cluster in CLUSTERS:
        for address in POD_ADDRESSES:
            times = sorted(draw(st.sets(st.integers(1, 29), max_size=6)))
            for start, end in zip(times[0::2], [*times[1::2], None], strict=False):
                lives.append(PodLife(cluster, address, start, end))
    return tuple(lives)


@st.composite
def exchanges(draw):
    """Up to eight exchanges; those of UDP may have one port, and so be of one socket."""
    found = []
    for index in range(draw(st.integers(1, 8))):
        udp = draw(st.booleans())
        port = 9 if udp and draw(st.booleans()) else 100 + index
        where = draw(st.sampled_from(CLUSTERS)), draw(st.sampled_from(POD_ADDRESSES))
        found.append(Exchange(*where, draw(st.integers(1, 29)), port, 1 << index, udp))
    return tuple(found)


class World:
    """A window of clusters, each with a machine (sessions 0, 1, …) and a k8s collector (sessions 10, 11, …)."""

    def __init__(self, feed: Feed | None = None):
        self.feed = feed or Feed()
        for index, cluster in enumerate(CLUSTERS):
            self.feed.session(index, "client", host=intake_pb2.Host(name=f"machine-{index}", environment=cluster))
            self.start_collector(10 + index, cluster)

    def start_collector(self, number: int, cluster: str, at_s: int = 0) -> None:
        host = intake_pb2.Host(name=f"k8s-{cluster}", environment=cluster)
        self.feed.session(number, host=host, kind=K8S, at_s=at_s)

    def tell(self, number: int, at_s: int, **entities) -> None:
        self.feed.take(number, at_s, entities=intake_pb2.Entities(**entities))

    def exchange(self, told: Exchange) -> None:
        row = connector_row(
            socket=told.port,
            local_address=f"10.0.{CLUSTERS.index(told.cluster)}.1",
            local_port=told.port,
            remote_address=told.address,
            bytes_sent=told.amount,
            opened=0 if told.udp else 1,
        )
        rows = {"udp": (row,)} if told.udp else {}
        self.feed.take(CLUSTERS.index(told.cluster), told.second, *(() if told.udp else (row,)), **rows)

    def moved(self) -> Counter:
        """Return the bytes by cluster of the machine, and by workload of the other end."""
        window = self.feed.seal()
        level = window.levels[0]
        found = Counter()
        for source, dest, *amounts in zip(
            level.source, level.dest, level.values["bytes"], level.values["udp_bytes"], strict=True
        ):
            labels = [dict(window.ends.labels[end]) for end in (source, dest)]
            found[labels[0].get("environment", ""), labels[1]["workload.name"]] += sum(map(int, amounts))
        return +found


def expected(lives: tuple[PodLife, ...], told: tuple[Exchange, ...]) -> Counter:
    """Return what `World.moved` should be, one exchange at a time."""
    found = Counter()
    for each in told:
        at_address = [life for life in lives if life.address == each.address]
        own = [life for life in at_address if life.cluster == each.cluster]
        elsewhere = {life.cluster for life in at_address}
        asked = own or (at_address if len(elsewhere) == 1 else [])
        found[each.cluster, next(filter(None, (name_at(asked, each.second),)), UNKNOWN)] += each.amount
    return found


def name_at(lives: list[PodLife], second: int) -> str | None:
    """Return the pod that had an address, a little longer than it did if nobody else has it."""
    before = [life for life in lives if life.start <= second]
    last = max(before, key=lambda life: life.start, default=None)
    return last.name if last and (last.end is None or second < last.end + SLACK_S) else None


def events_of(lives: tuple[PodLife, ...], told: tuple[Exchange, ...]) -> list[list[tuple]]:
    """Return by session what it says: (second, what is to be done with a world)."""
    sessions: list[list[tuple]] = []
    for index, cluster in enumerate(CLUSTERS):
        own = [each for each in told if each.cluster == cluster]
        sessions.append([(each.second, lambda world, each=each: world.exchange(each)) for each in own])
        says = []
        for life in (life for life in lives if life.cluster == cluster):
            number, start, end = 10 + index, life.start, life.end
            says.append((start, lambda world, n=number, s=start, p=life: world.tell(n, s, pods=[p.told(whole=False)])))
            if end is not None:
                says.append((end, lambda world, n=number, s=end, p=life: world.tell(n, s, retired_pods=[p.name])))
        sessions.append(sorted(says, key=lambda event: event[0]))
    return sessions


def in_time(sessions: list[list[tuple]]) -> list:
    return [act for _, act in sorted((event for said in sessions for event in said), key=lambda event: event[0])]


def play(acts: list) -> Counter:
    world = World()
    for act in acts:
        act(world)
    return world.moved()


@LAW
@given(pod_lives(), exchanges())
def test_each_exchange_is_with_who_had_the_address_then(lives, told):
    assert play(in_time(events_of(lives, told))) == expected(lives, told)


@LAW
@given(pod_lives(), exchanges(), st.data())
def test_how_the_sessions_words_interleave_means_nothing(lives, told, data):
    """Names that come after their flows are those that come before; each session's own words keep their order."""
    sessions = [list(said) for said in events_of(lives, told)]
    acts = []
    while any(sessions):
        said = data.draw(st.sampled_from([said for said in sessions if said]))
        acts.append(said.pop(0)[1])
    assert play(acts) == expected(lives, told)


@LAW
@given(pod_lives(), exchanges(), st.randoms(use_true_random=False))
def test_pods_told_whole_in_any_order_in_parts_and_again(lives, told, random):
    """A list that tells of the past, in any order, some of it twice, in snapshots of any size."""
    world = World()
    for each in told:
        world.exchange(each)
    for index, cluster in enumerate(CLUSTERS):
        pods = [life.told(whole=True) for life in lives if life.cluster == cluster]
        pods += random.sample(pods, len(pods) // 2)
        random.shuffle(pods)
        cuts = sorted(random.randrange(len(pods) + 1) for _ in range(3))
        for begin, end in zip([0, *cuts], [*cuts, len(pods)], strict=True):
            world.feed.snapshot(10 + index, 29, pods=pods[begin:end], partial=end < len(pods) or begin < cuts[-1])
    assert world.moved() == expected(lives, told)


@LAW
@given(pod_lives(), exchanges(), st.integers(1, 29), st.booleans())
def test_a_collector_that_starts_again_changes_nothing(lives, told, when, seen):
    """At any time, whether or not the end of its first connection is seen, and whatever is retired just then."""
    world = World()
    sessions = events_of(lives, told)
    acts = [event for said in sessions for event in said]
    for second in range(31):
        if second == when:
            for index, cluster in enumerate(CLUSTERS):
                alive = [
                    life.told(whole=False)
                    for life in lives
                    if life.cluster == cluster and life.start <= when and (life.end is None or life.end > when)
                ]
                if seen:
                    world.feed.close(10 + index, when)
                world.start_collector(20 + index, cluster, when)
                world.feed.snapshot(20 + index, when, pods=alive)
                if not seen:
                    world.feed.close(10 + index, when)
        for at_s, act in acts:
            if at_s == second:
                act(world if second < when else Restarted(world))
    assert world.moved() == expected(lives, told)


class Restarted:
    """The world with the second run of each k8s collector in the place of the first."""

    def __init__(self, world: World) -> None:
        self.world = world

    def tell(self, number: int, at_s: int, **entities) -> None:
        self.world.tell(number + 10, at_s, **entities)

    def exchange(self, told: Exchange) -> None:
        self.world.exchange(told)


def texts():
    return st.text(max_size=5) | st.sampled_from(("", "uid", "node", "aws"))


def described(message):
    """Return a strategy for messages of a kind, whatever they say."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = st.dictionaries(texts(), texts(), max_size=2)
        elif field.message_type is not None:
            fields[field.name] = st.lists(described(field.message_type._concrete_class), max_size=2)
        elif field.type == field.TYPE_BYTES:
            one = st.binary(max_size=17) | st.sampled_from([packed(address) for address in POD_ADDRESSES])
            fields[field.name] = st.lists(one, max_size=3) if message is not intake_pb2.PublicAddress else one
        elif field.type == field.TYPE_STRING:
            fields[field.name] = st.lists(texts(), max_size=2) if field.name == "dns_names" else texts()
        elif field.type == field.TYPE_BOOL:
            fields[field.name] = st.booleans()
        else:
            most = 2**64 - 1 if field.type == field.TYPE_FIXED64 else 2**32 - 1
            fields[field.name] = st.integers(0, most) | st.integers(0, 90)
    return st.builds(message, **fields)


@st.composite
def hostile_entities(draw):
    """Entities of Kubernetes, clouds and the DNS, whatever they say."""
    kinds = {
        "pods": intake_pb2.Pod,
        "services": intake_pb2.KubernetesService,
        "nodes": intake_pb2.KubernetesNode,
        "cloud_interfaces": intake_pb2.CloudInterface,
        "dns_names": intake_pb2.DnsName,
    }
    told = {name: draw(st.lists(described(kind), max_size=2)) for name, kind in kinds.items() if draw(st.booleans())}
    retired = ("retired_pods", "retired_services", "retired_nodes", "retired_cloud_interfaces")
    return intake_pb2.Entities(**told, **{name: draw(st.lists(texts(), max_size=2)) for name in retired})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(hostile_entities(), st.sampled_from("tsrc")), min_size=1, max_size=6), exchanges())
def test_whatever_is_told_every_byte_is_counted(words, told):
    """Hostile entities harm neither the reducer nor the sums; who tells, and in what way, does not matter."""
    feed = Feed(("az_az", "id_id"), use_interfaces=True)
    world = World(feed)
    for index, (entities, way) in enumerate(words):
        cut(entities)
        session = session_id(10 + index % 2)
        if way == "t":
            world.feed.take(10, 5 + index, entities=entities)
        elif way == "c":
            world.feed.close(11, 5 + index)
        else:
            world.feed.pipeline.snapshot(session, entities, (5 + index) * SECOND_NS, partial=way == "s")
    for each in told:
        world.exchange(each)
    window = world.feed.seal()
    for level in window.levels:
        assert level.values["bytes"].sum() + level.values["udp_bytes"].sum() == sum(each.amount for each in told)
