"""One mail to one server: SMTP as Go's net/smtp speaks it for the reference, and TLS checked.

TLS: from the start on port 465, else by STARTTLS where the server offers it.  The certificate is verified unless
`insecure`, which the reference reads and never uses.  A password goes over TLS or to this machine, never else.

Above: `mail_sender.py`.  Source: docs/reference/configuration.md, section 4; RFC 5321, RFC 3207, RFC 8314.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from ipaddress import ip_address
from typing import Final

__all__ = ["CannotSend", "Server", "send"]

_IMPLICIT_TLS_PORT: Final = 465
_SUBJECT_LIMIT_CHARS: Final = 200


class CannotSend(Exception):
    """The mail was not taken; the message says why, without passwords."""


@dataclass(frozen=True, slots=True)
class Server:
    """As in `log.hooks`: `addr` is host:port, with brackets around IPv6."""

    addr: str
    sender: str
    receivers: list[str]
    username: str = ""
    password: str = field(default="", repr=False)
    insecure: bool = False

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.addr.rpartition(":")
        return host.strip("[]"), int(port)


def send(server: Server, subject: str, text: str, *, timeout_s: float) -> None:
    """Hand one mail over.  Raises CannotSend, also when only some of the receivers were taken."""
    message = _message(server, subject, text)
    sender = parseaddr(server.sender)[1]
    receivers = [parseaddr(receiver)[1] for receiver in server.receivers]
    try:
        with _connect(server, timeout_s) as smtp:
            _authenticate(smtp, server)
            refused = smtp.send_message(message, sender, receivers)
    except (OSError, smtplib.SMTPException) as error:
        raise CannotSend(_told(error, server)) from error
    if refused:
        raise CannotSend(_told(f"receivers were refused: {refused}", server))


def _message(server: Server, subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = _one_line(server.sender)
    message["To"] = ", ".join(_one_line(receiver) for receiver in server.receivers)
    message["Subject"] = _one_line(subject)[:_SUBJECT_LIMIT_CHARS]
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=parseaddr(server.sender)[1].rpartition("@")[2] or "localhost")
    # So that no holiday responder writes back (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.encode(errors="replace").decode())
    return message


def _connect(server: Server, timeout_s: float) -> smtplib.SMTP:
    """A session, encrypted where the server can."""
    host, port = server.place
    # Not smtplib's own default, which asks DNS for our full name and may wait for it.
    name = socket.gethostname()
    local = name if "." in name else "[127.0.0.1]"
    if port == _IMPLICIT_TLS_PORT:
        context = _context(server)
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(host, port, local, timeout=timeout_s, context=context)
        smtp.ehlo()
        return smtp
    smtp = smtplib.SMTP(host, port, local, timeout=timeout_s)
    try:
        smtp.ehlo()
        if smtp.has_extn("starttls"):
            smtp.starttls(context=_context(server))
            smtp.ehlo()
    except BaseException:
        smtp.close()
        raise
    return smtp


def _context(server: Server) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _authenticate(smtp: smtplib.SMTP, server: Server) -> None:
    if not server.username:
        return
    encrypted = isinstance(smtp.sock, ssl.SSLSocket)
    if not encrypted and not _is_here(server.place[0]):
        raise CannotSend("the mail server offers no TLS, so the password is not sent")
    if not smtp.has_extn("auth"):
        raise CannotSend("the mail server takes no passwords (it does not offer AUTH)")
    smtp.login(server.username, server.password)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _told(error: object, server: Server) -> str:
    text = str(error) or type(error).__name__
    return text.replace(server.password, "********") if server.password else text
