"""Mails as mail servers get them, and passwords that only the right one sees."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from tests.smtp import Post, post_office

from moorage.logs import smtp
from moorage.logs.smtp import MailRefused, MailServer, send

if TYPE_CHECKING:
    from pathlib import Path


def server(office: Post, **more: object) -> MailServer:
    usual = {"addr": office.addr, "sender": "Registry <registry@example.com>", "receivers": ["a@example.com"]}
    return MailServer(**{**usual, **more})  # type: ignore[arg-type]  # the fields, by name


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's authorities, as an administrator has added one."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def test_a_mail_arrives_whole() -> None:
    with post_office() as office:
        receivers = ["a@example.com", "Bea <b@example.com>"]
        send(server(office, receivers=receivers), "[error] here: it broke", "Übel\n.\nend\n", timeout_s=10)
        (mail,) = office.mails
    assert (mail.sender, mail.receivers) == ("registry@example.com", ["a@example.com", "b@example.com"])
    assert mail.message["Subject"] == "[error] here: it broke"
    assert mail.message["From"] == "Registry <registry@example.com>"
    assert mail.message["To"] == "a@example.com, Bea <b@example.com>"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.message["Date"]
    assert mail.message["Message-ID"].endswith("@example.com>")
    assert mail.text.splitlines() == ["Übel", ".", "end"]
    assert not mail.encrypted


def test_nobody_adds_a_header_by_a_line_that_is_logged() -> None:
    """A message holds what clients sent: paths, names of repositories."""
    with post_office() as office:
        send(server(office), "x\r\nBcc: evil@example.com\n\nbody" + "y" * 500, "text", timeout_s=10)
        (mail,) = office.mails
    assert "Bcc" not in mail.message
    assert mail.receivers == ["a@example.com"]
    assert len(mail.message["Subject"]) == 200


@pytest.mark.usefixtures("trusted")
def test_tls_is_used_where_it_is_offered(context: ssl.SSLContext) -> None:
    with post_office(context=context, passwords={"me": "pw"}) as office:
        send(server(office, username="me", password="pw"), "s", "t", timeout_s=10)
        assert (office.mails[0].encrypted, office.mails[0].user) == (True, "me")


@pytest.mark.usefixtures("trusted")
def test_port_465_is_tls_from_the_start(context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8314 prefers it; the reference cannot do it."""
    with post_office(context=context, implicit=True) as office:
        monkeypatch.setattr(smtp, "_IMPLICIT_TLS_PORT", office.port)
        send(server(office), "s", "t", timeout_s=10)
        assert office.mails[0].encrypted


def test_a_mail_server_must_prove_who_it_is(context: ssl.SSLContext) -> None:
    """Otherwise a machine in between reads the password; `insecure` is the explicit exception."""
    with post_office(context=context, passwords={"me": "pw"}) as office:
        with pytest.raises(MailRefused, match="certificate verify failed"):
            send(server(office, username="me", password="pw"), "s", "t", timeout_s=10)
        assert office.mails == []
        send(server(office, username="me", password="pw", insecure=True), "s", "t", timeout_s=10)
        assert office.mails[0].encrypted


def test_a_password_is_not_sent_in_the_clear() -> None:
    """Except to this machine, as Go's net/smtp has it."""
    with post_office(passwords={"me": "pw"}) as office:
        # 0.0.0.0 is this machine to Linux, but nothing that a password is trusted to.
        away = server(office, addr=f"0.0.0.0:{office.port}", username="me", password="pw")
        with pytest.raises(MailRefused, match="offers no TLS"):
            send(away, "s", "t", timeout_s=10)
        send(server(office, username="me", password="pw"), "s", "t", timeout_s=10)
        assert [mail.user for mail in office.mails] == ["me"]


@pytest.mark.parametrize(
    ("addr", "here"), [("localhost", True), ("127.0.0.9", True), ("::1", True), ("mail", False)]
)
def test_this_machine_is_known_by_its_names(addr: str, here: bool) -> None:
    assert smtp._is_local(addr) is here


def test_a_refused_password_is_told_without_it() -> None:
    """Servers repeat what they were sent, and logs are read by many."""
    with post_office(passwords={"me": "right"}) as office:
        with pytest.raises(MailRefused, match="535") as reported:
            send(server(office, username="me", password="hush-hush"), "s", "t", timeout_s=10)
        assert "hush-hush" not in str(reported.value)
        assert "hush-hush" not in repr(server(office, password="hush-hush"))


def test_a_server_that_takes_no_passwords_is_told_of() -> None:
    """The mail would go out, but not as who was configured."""
    with post_office() as office, pytest.raises(MailRefused, match="does not offer AUTH"):
        send(server(office, username="me", password="pw"), "s", "t", timeout_s=10)


def test_receivers_that_are_refused_are_named() -> None:
    with post_office(refused=frozenset({"b@example.com"})) as office:
        with pytest.raises(MailRefused, match=r"b@example\.com"):
            send(server(office, receivers=["a@example.com", "b@example.com"]), "s", "t", timeout_s=10)
        assert office.mails[0].receivers == ["a@example.com"]


def test_a_dead_server_and_a_silent_one_are_given_up() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = MailServer(f"127.0.0.1:{unused.getsockname()[1]}", "a@b", ["c@d"])
        with pytest.raises(MailRefused, match="refused"):
            send(dead, "s", "t", timeout_s=10)
    with post_office(silent=True) as office, pytest.raises(MailRefused, match="timed out"):
        send(server(office), "s", "t", timeout_s=0.05)


def test_ipv6_is_written_in_brackets() -> None:
    """The reference takes addresses with one colon only."""
    assert MailServer("[::1]:25", "a@b", []).address == ("::1", 25)
