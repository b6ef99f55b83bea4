"""docs/troubleshooting.md: each text on it is provoked with the real client, and is as the client prints it."""

from __future__ import annotations

import re
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.clients.daemons import containerd, dockerd
from tests.clients.secure import Place
from tests.operations.pages import ROOT
from tests.operations.troubles import access, connecting, proxied, pushing, starting
from tests.operations.troubles.desk import Desk
from tests.server import certs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.operations.troubles.desk import Output

pytestmark = [pytest.mark.client, pytest.mark.docker, pytest.mark.root, pytest.mark.slow,
              pytest.mark.xdist_group("docker"), pytest.mark.timeout(300)]  # fmt: skip

PAGE: Final = (ROOT / "docs" / "troubleshooting.md").read_text()
SCENES: Final = {**connecting.SCENES, **access.SCENES, **pushing.SCENES, **proxied.SCENES, **starting.SCENES}
SLOW: Final = {**pushing.SLOW, **proxied.SLOW}


def entries() -> dict[str, dict[str, list[str]]]:
    """The lines of each entry's blocks, by its heading and the caption."""
    found = {}
    for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        blocks = re.findall(r"```{code-block} text\n:caption: ([^\n]*)\n\n(.*?)```", text, re.DOTALL)
        found[heading] = {caption: lines.splitlines() for caption, lines in blocks}
    return found


ENTRIES: Final = entries()


@pytest.fixture(scope="module")
def background() -> dict[str, Future[Output]]:
    return {}


@pytest.fixture(scope="module")
def desk(background: dict[str, Future[Output]]) -> Iterator[Desk]:
    """Clients and engines for the whole page; what is slow has begun, and runs beside the other tests."""
    # Servers run as other users, too, and these cannot enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="moorage-"))
    folder.chmod(0o755)
    try:
        with ExitStack() as stack:
            place = Place(folder / "etc")
            engine = stack.enter_context(dockerd(prefix=place.prefix))
            socket = stack.enter_context(containerd())
            found = Desk(folder, engine, socket, place, certs.root("our CA"), stack)
            with ThreadPoolExecutor(len(SLOW)) as pool:
                background.update({heading: pool.submit(scene, found) for heading, scene in SLOW.items()})
                yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(heading: str, printed: Output) -> None:
    """Each line of the page is a line of what was printed; `...` matches anything."""
    shown = ENTRIES[heading]
    assert shown.keys() == printed.keys()
    for caption, lines in shown.items():
        assert lines
        output = [line.strip() for line in printed[caption].replace("\r", "\n").splitlines()]
        for line in lines:
            pattern = re.compile(".*?".join(re.escape(part) for part in line.split("...")))
            assert any(pattern.fullmatch(each) for each in output), (
                f"{caption}: {line}\nis not in\n{printed[caption]}"
            )


def test_every_entry_is_provoked() -> None:
    assert ENTRIES.keys() == SCENES.keys() | SLOW.keys()


@pytest.mark.parametrize("heading", SCENES)
def test_the_text_is_what_is_printed(heading: str, desk: Desk) -> None:
    """A user finds the page by searching for what is on the screen."""
    compare(heading, SCENES[heading](desk))


@pytest.mark.parametrize("heading", SLOW)
def test_the_text_is_what_is_printed_after_docker_has_given_up(
    heading: str, desk: Desk, background: dict[str, Future[Output]]
) -> None:
    """Docker sends a layer five times before it prints the error."""
    del desk
    compare(heading, background[heading].result(200))
