"""Which metrics are given: what --disable-metrics and --enable-metrics name, and the percentiles if asked for.

The reducer's own, whose group is ebpf_net, are all given where the lists do not name them.

The lists are the reference's: names or `GROUP.all` separated by commas, first those to disable, then those to enable.
"""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING

from reducer.outputs.metric import Quantile
from reducer.outputs.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reducer.outputs.metric import Metric

_LOGGER = logging.getLogger(__name__)

ALL = "all"
NONE = "none"
# The reducer's own metrics: not in the table. Some of the reference's are not here, so none is named in vain.
OWN = "ebpf_net"


def chosen_metrics(
    disable: str, enable: str, *, percentiles: bool, metrics: Sequence[Metric] = METRICS
) -> tuple[Metric, ...]:
    """Return those of *metrics* that are to be given; what the lists name in vain is logged.

    Args:
        disable: list of names; `none` disables nothing.
        enable: list of names, which come after those to disable.
        percentiles: whether those of latencies are given by default.
        metrics: the table.

    """
    enabled = {
        metric.name: metric.enabled or (percentiles and isinstance(metric.sparse, Quantile)) for metric in metrics
    }
    for option, names, value in (("--disable-metrics", disable, False), ("--enable-metrics", enable, True)):
        for item in _items(names):
            if item.startswith(f"{OWN}."):
                continue
            found = [metric.name for metric in metrics if item in (metric.name, f"{metric.group}.{ALL}")]
            enabled.update(dict.fromkeys(found, value))
            if not found:
                _LOGGER.warning("%s names %s, which is no metric%s", option, item, _suggestion(item, list(enabled)))
    return tuple(metric for metric in metrics if enabled[metric.name])


def own_metrics_chosen(disable: str, enable: str) -> Callable[[str], bool]:
    """Return what tells of a name whether the reducer's own metric is to be given, by the same lists."""
    disabled, enabled = set(_items(disable)), set(_items(enable))

    def chosen(name: str) -> bool:
        named = {name, f"{OWN}.{ALL}"}
        return not (named & disabled) or bool(named & enabled)

    return chosen


def _items(names: str) -> Iterator[str]:
    if names.strip().lower() != NONE:
        yield from filter(None, (name.strip().lower() for name in names.split(",")))


def _suggestion(item: str, names: list[str]) -> str:
    groups = {f"{name.partition('.')[0]}.{ALL}" for name in names}
    close = difflib.get_close_matches(item, [*names, *sorted(groups)], 1)
    return f": is {close[0]} meant?" if close else ""
