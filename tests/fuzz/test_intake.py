from __future__ import annotations

from intake.limits import GREATEST_VALUE
from tests.fuzz import intake
from tests.fuzz.intake import Fuzzer


def test_a_short_run():
    """`python -m tests.fuzz.intake` makes a long one."""
    outcome = Fuzzer(3).run(8_000)
    assert outcome.windows >= 1
    assert outcome.answers["taken"] > 2_000
    refused = [reason for reason in outcome.answers if reason.startswith("refused")]
    for reason in (
        "not a message of this protocol",
        "column … has … bytes",
        "rows in a batch",
        "column … holds …: a row has at most",
        "column … holds …: the greatest known is",
        "batch number",
        "what is compressed is no zlib stream",
        "what is compressed is cut off",
        "decompressed it is larger than",
    ):
        assert any(reason in each for each in refused), reason
    assert any("session_id" in answer for answer in outcome.answers)


def test_what_a_window_refuses_of_the_honest_is_not_missed(monkeypatch):
    monkeypatch.setattr(intake, "HONEST_SEGMENTS", GREATEST_VALUE)
    outcome = Fuzzer(3).run(8_000)
    assert 0 < outcome.honest_bytes_refused < outcome.honest_bytes
    assert outcome.memory
