"""Labels that the operator gives a machine or a collector, by variables or in the configuration file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import category

from ebpf_net.v1 import intake_pb2

from daemon.config_file import check_keys
from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

LABELS = ("namespace", "environment", "cluster", "service", "host", "zone")
# The variables of the reference; each comes before the label of the same name in the configuration file.
LABEL_VARIABLES = {
    label: f"EBPF_NET_AGENT_{label.upper()}" for label in ("namespace", "cluster", "service", "host", "zone")
}
LONGEST_VALUE = 40


def labelled_host(name: str, labels: Mapping[str, str]) -> intake_pb2.Host:
    """Return the message about the host of a collector, as far as the operator's labels tell of it."""
    return intake_pb2.Host(
        name=name,
        environment=labels.get("environment") or labels.get("cluster", ""),
        namespace=labels.get("namespace", ""),
        zone=labels.get("zone", ""),
        service=labels.get("service", ""),
    )


def operator_labels(from_file: object, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of the configuration file's key `labels`, and of the variables, which come first.

    Raises:
        StartupError: a label is not one of `LABELS`, or its value is no text (UTF-8) of at most 40 characters.

    """
    if not isinstance(from_file, dict):
        raise StartupError(f"labels must be a mapping of names to values, not {from_file!r}")
    check_keys(from_file, LABELS, "labels")
    labels = {str(name): str(value) for name, value in from_file.items() if value is not None}
    labels |= {label: environ[variable] for label, variable in LABEL_VARIABLES.items() if environ.get(variable)}
    if "cluster" in labels and environ.get(LABEL_VARIABLES["cluster"]):
        labels["environment"] = labels["cluster"]
    for name, value in labels.items():
        if any(category(char) == "Cs" for char in value):  # what stands for a byte that is no text
            raise StartupError(f"label {name}: {value!r} is no text (UTF-8)")
        if len(value) > LONGEST_VALUE:
            raise StartupError(
                f"label {name}: {value!r} has {len(value)} characters, at most {LONGEST_VALUE} are taken"
            )
    return labels
