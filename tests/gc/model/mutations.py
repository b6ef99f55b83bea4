"""Parts of the protocol that are removed one at a time, and the scenario in which that is a loss."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MUTATIONS", "Mutation"]


class Mutation(NamedTuple):
    """`off` are fields of `Protocol`; `breaks` is the property that no longer holds.

    `deep`: its trace is long, and found depth first.
    """

    name: str
    off: tuple[str, ...]
    scenario: str
    breaks: str
    deep: bool = False


MUTATIONS: Final = [
    Mutation("no rescue", ("rescue",), "head_then_push", "P2"),
    Mutation("no confirm after the link", ("confirm",), "push_of_a_dangling_layer", "P1"),
    Mutation("no look at the bytes after another run", ("check_data",), "mounting", "P1"),
    Mutation("no look at the links after another run", ("check_links",), "push_of_a_dangling_layer", "P1"),
    Mutation("bytes looked at before the listing", ("check_after_listing",), "mounting", "P1"),
    Mutation("bytes looked at before the rescue", ("admit_first",), "head_then_push", "P2"),
    Mutation("a doomed reference is refused at once", ("settle_references",), "head_then_push", "P2"),
    Mutation("no wait", ("wait",), "head_then_push", "P2"),
    Mutation("no wait for listings after running", ("settle", "wait"), "mounting", "P1"),
    Mutation("no wait for listings before the end", ("settle_end",), "torn_listing", "P1"),
    Mutation("no doomed state", ("doom",), "mounting", "P1"),
    Mutation("no second look", ("second_mark", "last_mark"), "mounting", "P1"),
    Mutation("rescues read after the last mark only", ("rescued_at_once",), "head_then_push", "P1"),
    Mutation("doomed in all repositories", ("per_repository",), "push_of_a_dangling_layer", "P1"),
    Mutation("layer links removed before revision links", ("parents_first",), "half_removed", "P1"),
    Mutation(
        "bytes looked for in no repository",
        ("second_mark", "bytes_looked_for_everywhere"),
        "rounds_and_a_mount",
        "P1",
    ),
    Mutation("no quarantine", ("quarantine",), "late_deletion", "P1"),
    Mutation("a deadline that does not end the process", ("timer",), "dying_collector", "P1", deep=True),
]
"""While there is a wait, the one after `running` is redundant, so both are removed; a wait may be set to zero."""
