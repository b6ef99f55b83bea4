"""When mails of log hooks go out and what they say, with a clock that stands still."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Final

from moorage.config.sections.log import Hook, MailOptions, Smtp
from moorage.logs.mail_sender import MailDigest, MailSender

if TYPE_CHECKING:
    import pytest
from tests.smtp import Post, post_office


def line(message: str = "it broke", **more: Any) -> dict[str, Any]:
    return {
        "levels": ["error"],
        "time": 1_700_000_000.5,
        "level": "error",
        "message": message,
        "fields": {},
        **more,
    }


def hook(office: Post, *levels: str) -> Hook:
    options = MailOptions(smtp=Smtp(addr=office.addr), from_="registry@example.com", to=("a@example.com",))
    return Hook(type="mail", levels=levels or ("error",), options=options)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Office:
    """A mailer with one hook, its clock and its mail server."""

    def __init__(self, office: Post) -> None:
        self.office, self.clock = office, Clock()
        self.mailer = MailSender([hook(office)], host="node1", clock=self.clock)

    def tell(self, **more: Any) -> None:
        self.mailer.add(json.dumps(line(**more)).encode())

    def at(self, now: float) -> int:
        """How many mails have gone out by then."""
        self.clock.now = now
        self.mailer.send_due()
        return len(self.office.mails)


def test_what_comes_together_is_one_mail_and_a_minute_has_one() -> None:
    """A storm of errors must not flood its receivers with mails."""
    with post_office() as office:
        it = Office(office)
        assert it.mailer.wait_s() is None
        it.tell(message="first")
        it.tell(message="second")
        assert it.mailer.wait_s() == 1.0
        assert it.at(0.9) == 0
        assert it.at(1.0) == 1
        it.tell(message="third")
        assert it.mailer.wait_s() == 60.0
        assert it.at(60.9) == 1
        it.tell(message="fourth")
        assert it.at(61.0) == 2
        it.clock.now = 500.0
        it.tell(message="fifth")
        assert it.at(500.5) == 2
        assert it.at(501.0) == 3
        subjects = [mail.message["Subject"] for mail in office.mails]
    assert subjects == [
        "[error] node1: first (and 1 more)", "[error] node1: third (and 1 more)", "[error] node1: fifth",
    ]  # fmt: skip


def test_a_mail_shows_some_lines_and_counts_the_others() -> None:
    digest = MailDigest()
    for number in range(1000):
        digest.add(line(f"kind {number % 3}", lost=1 if number == 500 else 0), 0.0)
    text = digest.text("node1")
    assert text.count("error: kind") == 20
    counted = [int(row.split()[0]) for row in text.splitlines() if " error kind " in row]
    assert sum(counted) == 980
    assert "1 more lines were dropped" in text
    assert digest.subject("node1") == "[error] node1: kind 0 (and 999 more)"


def test_lines_of_ever_new_messages_take_no_memory() -> None:
    digest = MailDigest()
    for number in range(10_000):
        digest.add(line(f"message {number}"), 0.0)
    assert len(digest.others) <= 52
    assert digest.waiting() == 10_000


def test_no_control_character_reaches_a_mail() -> None:
    """Names of users and paths come from clients; a line end would forge another field."""
    digest = MailDigest()
    hostile = "a\x1b[31m\x9b\u202e\nz"
    for number in range(30):
        digest.add(line(f"{hostile} {number}", fields={"user": hostile}, trace=f"first\n{hostile}"), 0.0)
    text = digest.text("node1")
    assert not set("\x1b\x9b\u202e") & set(text)
    assert text.count(r"    user: a\u001b[31m\u009b\u202e\u000az" + "\n") == 20
    assert text.count("\nfirst\n" + r"a\u001b[31m\u009b\u202e" + "\nz") == 20
    assert text.count(r" error a\u001b[31m\u009b\u202e\u000az ") == 10


def test_a_mail_has_all_that_was_logged() -> None:
    digest = MailDigest()
    digest.add(line(fields={"path": "/v2/", "instance.id": "i-1"}, trace="Traceback\n  boom"), 0.0)
    text = digest.text("node1")
    assert (
        "2023-11-14T22:13:20.500+00:00 error: it broke\n    instance.id: i-1\n    path: /v2/\n\nTraceback" in text
    )
    assert "on node1" in text


WAITS: Final = [(1.0, 61.0), (61.0, 181.0), (181.0, 421.0), (421.0, 901.0), (901.0, 1501.0), (1501.0, 2101.0)]


def test_a_dead_mail_server_is_tried_ever_more_rarely(capfd: pytest.CaptureFixture[str]) -> None:
    """And the lines wait for it: 1, 2, 4, 8, 10, 10 minutes."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = Post(port=unused.getsockname()[1])
        it = Office(dead)
        it.tell()
        for at, again in WAITS:
            it.at(at)
            assert it.clock.now + (it.mailer.wait_s() or 0) == again
        it.mailer.send_all()
    with post_office() as office:
        levels, _, digest = it.mailer._hooks[0]
        _, server, _ = MailSender([hook(office)])._hooks[0]
        it.mailer._hooks[0] = (levels, server, digest)
        it.clock.now = 10_000.0
        it.mailer.send_due()
        assert len(office.mails) == 1
        it.tell()
        assert it.mailer.wait_s() == 60.0
    reported = capfd.readouterr()
    assert (reported.out + reported.err).count("a mail of log.hooks could not be sent") == 7


def test_at_the_end_there_is_a_last_mail() -> None:
    with post_office() as office:
        it = Office(office)
        it.tell()
        it.mailer.send_all()
        assert len(office.mails) == 1
        it.mailer.send_all()
        assert len(office.mails) == 1
