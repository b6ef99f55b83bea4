"""Results of one run of pytest, from its JUnit file, and the table at the end of the whole job.

A test that was skipped is *excused* where the store cannot pass it by its nature (`tests.s3.cannot_hold`); for any
other reason it was *not run*, and then the job has failed: a green run is a run of everything.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Outcome", "read", "table"]

_EXCUSE: Final = "cannot hold on "


@dataclass
class Outcome:
    """Of one part of the job.  `failed` and `not_run` are (test, reason); `status` is pytest's exit status."""

    part: str
    status: int
    seconds: float = 0.0
    passed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    excused: list[tuple[str, str]] = field(default_factory=list)
    not_run: list[tuple[str, str]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.status == 0 and self.passed > 0 and not self.failed and not self.not_run


def read(part: str, status: int, path: Path, seconds: float) -> Outcome:
    """Of a part whose file is missing, pytest did not get as far as writing it, only the status is known."""
    outcome = Outcome(part, status, seconds)
    if not path.exists():
        return outcome
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        reported = [found for kind in ("error", "failure", "skipped") if (found := case.find(kind)) is not None]
        if not reported:
            outcome.passed += 1
            continue
        reason = (reported[0].get("message") or reported[0].text or "").strip().split("\n", 1)[0]
        if reported[0].tag != "skipped":
            outcome.failed.append((name, reason))
        elif reason.startswith(_EXCUSE):
            outcome.excused.append((name, reason.partition(": ")[2]))
        else:
            outcome.not_run.append((name, reason))
    return outcome


def table(store: str, outcomes: Sequence[Outcome]) -> str:
    """For people."""
    return "\n".join(_lines(store, outcomes))


def _lines(store: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield f"{store}:"
    yield f"  {'':40}{'passed':>8}{'failed':>8}{'excused':>9}{'not run':>9}{'time':>8}"
    for one in outcomes:
        counts = f"{one.passed:8}{len(one.failed):8}{len(one.excused):9}{len(one.not_run):9}"
        broken = "" if one.status in {0, 1} else f"   pytest ended with status {one.status}"
        yield f"  {one.part:40}{counts}{one.seconds:6.0f} s{broken}"
    sums = [sum(numbers) for numbers in zip(*(
        (one.passed, len(one.failed), len(one.excused), len(one.not_run)) for one in outcomes
    ), strict=True)]  # fmt: skip
    yield f"  {'all':40}{sums[0]:8}{sums[1]:8}{sums[2]:9}{sums[3]:9}{sum(one.seconds for one in outcomes):6.0f} s"
    reasons = Counter(reason for one in outcomes for _, reason in one.excused)
    if reasons:
        yield "  Excused, by the nature of the store:"
    for reason, count in reasons.most_common():
        yield f"    {count:3}  {reason}"
        yield from (f"           {name}" for one in outcomes for name, why in one.excused if why == reason)
    for heading, found in (
        ("Failed", [item for one in outcomes for item in one.failed]),
        ("Not run", [item for one in outcomes for item in one.not_run]),
    ):
        if found:
            yield f"  {heading}:"
        yield from (f"    {name}: {reason}" for name, reason in found)
