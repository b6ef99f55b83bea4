"""SMTP client: sends one mail, as Go's net/smtp does for CNCF Distribution, with verified TLS.

TLS: from the start on port 465, else by STARTTLS where the server offers it.  The certificate is verified unless
`insecure`, which Distribution reads and never uses.  A password is sent over TLS or to this machine only.

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

__all__ = ["MailRefused", "MailServer", "send"]

_IMPLICIT_TLS_PORT: Final = 465
_SUBJECT_LIMIT_CHARS: Final = 200


class MailRefused(Exception):
    """The mail was refused; the message has the cause, without passwords."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """Mail server and addresses of a hook: `addr` is host:port, with brackets around IPv6."""

    addr: str
    sender: str
    receivers: list[str]
    username: str = ""
    password: str = field(default="", repr=False)
    insecure: bool = False

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.addr.rpartition(":")
        return host.strip("[]"), int(port)


def send(server: MailServer, subject: str, text: str, *, timeout_s: float) -> None:
    """Send one mail.  Raises MailRefused, also when only some of the receivers were accepted."""
    message = _message(server, subject, text)
    sender = parseaddr(server.sender)[1]
    receivers = [parseaddr(receiver)[1] for receiver in server.receivers]
    try:
        with _connect(server, timeout_s) as smtp:
            _authenticate(smtp, server)
            refused = smtp.send_message(message, sender, receivers)
    except (OSError, smtplib.SMTPException) as error:
        raise MailRefused(_cause(error, server)) from error
    if refused:
        raise MailRefused(_cause(f"receivers were refused: {refused}", server))


def _message(server: MailServer, subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = _one_line(server.sender)
    message["To"] = ", ".join(_one_line(receiver) for receiver in server.receivers)
    message["Subject"] = _one_line(subject)[:_SUBJECT_LIMIT_CHARS]
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=parseaddr(server.sender)[1].rpartition("@")[2] or "localhost")
    # Prevents automatic replies (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.encode(errors="replace").decode())
    return message


def _connect(server: MailServer, timeout_s: float) -> smtplib.SMTP:
    """Return a session, encrypted if the server supports that."""
    host, port = server.address
    # The default of smtplib is a DNS lookup of the full host name, which may block.
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


def _context(server: MailServer) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _authenticate(smtp: smtplib.SMTP, server: MailServer) -> None:
    if not server.username:
        return
    encrypted = isinstance(smtp.sock, ssl.SSLSocket)
    if not encrypted and not _is_local(server.address[0]):
        raise MailRefused("the mail server offers no TLS, so the password is not sent")
    if not smtp.has_extn("auth"):
        raise MailRefused("the mail server accepts no passwords (it does not offer AUTH)")
    smtp.login(server.username, server.password)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _cause(error: object, server: MailServer) -> str:
    text = str(error) or type(error).__name__
    return text.replace(server.password, "********") if server.password else text
