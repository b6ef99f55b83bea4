"""A mail server on loopback: takes mails, as well or as badly as a test wants it."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import socketserver
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from email.message import EmailMessage

__all__ = ["Mail", "Post", "post_office"]

_LIMIT_S: Final = 60.0


@dataclass(frozen=True)
class Mail:
    """One mail; `user` is the name of the login, "" without one."""

    sender: str
    receivers: list[str]
    message: EmailMessage
    encrypted: bool
    user: str

    @property
    def text(self) -> str:
        return str(self.message.get_content())


@dataclass
class Post:
    """Behaviour of a server, and what it received.  `refused` are receivers; `silent`: it sends nothing."""

    context: ssl.SSLContext | None = None
    implicit: bool = False
    passwords: dict[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    silent: bool = False
    port: int = 0
    mails: list[Mail] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def got(self, mail: Mail) -> None:
        with self.arrived:
            self.mails.append(mail)
            self.arrived.notify_all()

    def wait(self, count: int = 1) -> list[Mail]:
        """The mails, once there are so many."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.mails) >= count, _LIMIT_S), (
                f"{len(self.mails)} mails came"
            )
            return list(self.mails)


@contextlib.contextmanager
def post_office(**how: object) -> Iterator[Post]:
    post = Post(**how)  # type: ignore[arg-type]  # the fields, by name
    ending = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, ssl.SSLError):
                if post.silent:
                    ending.wait(_LIMIT_S)
                    return
                session = _Session(post, self.request)
                try:
                    session.talk()
                finally:
                    session.file.close()
                    session.connection.close()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        post.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield post
        finally:
            ending.set()
            server.shutdown()
            thread.join()


class _Session:
    def __init__(self, post: Post, connection: socket.socket) -> None:
        self.post, self.connection = post, connection
        self.encrypted, self.user = False, ""
        connection.settimeout(_LIMIT_S)
        if post.implicit:
            self.encrypt()
        self.file = self.connection.makefile("rb")

    def encrypt(self) -> None:
        assert self.post.context is not None
        self.connection = self.post.context.wrap_socket(self.connection, server_side=True)
        self.encrypted = True

    def say(self, *lines: str) -> None:
        for index, line in enumerate(lines):
            mark = " " if index == len(lines) - 1 else "-"
            self.connection.sendall(f"{line[:3]}{mark}{line[4:]}\r\n".encode())

    def talk(self) -> None:
        self.say("220 ready")
        sender, receivers = "", list[str]()
        while line := self.file.readline():
            word, _, rest = line.decode().strip().partition(" ")
            match word.upper():
                case "EHLO":
                    self.say("250 hello", *self.extensions())
                case "STARTTLS":
                    self.say("220 go on")
                    self.encrypt()
                    self.file = self.connection.makefile("rb")
                case "AUTH":
                    self.authenticate(rest)
                case "MAIL":
                    sender, receivers = _within(rest), []
                    self.say("250 fine")
                case "RCPT":
                    refused = _within(rest) in self.post.refused
                    receivers += [] if refused else [_within(rest)]
                    self.say("550 nobody of that name" if refused else "250 fine")
                case "DATA":
                    self.say("354 go on")
                    self.post.got(Mail(sender, receivers, self.message(), self.encrypted, self.user))
                    self.say("250 taken")
                case "RSET":
                    self.say("250 fine")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("502 what?")

    def extensions(self) -> list[str]:
        tls = self.post.context is not None and not self.encrypted
        return ["250 8BITMIME"] + ["250 STARTTLS"] * tls + ["250 AUTH PLAIN"] * bool(self.post.passwords)

    def authenticate(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        if self.post.passwords.get(user) != password:
            # Some servers are that helpful.
            self.say(f"535 {password} is not the password of {user}")
            return
        self.user = user
        self.say("235 welcome")

    def message(self) -> EmailMessage:
        lines = []
        while (line := self.file.readline()) != b".\r\n":
            assert line
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return email.message_from_bytes(b"".join(lines), policy=email.policy.default)


def _within(rest: str) -> str:
    return rest[rest.index("<") + 1 : rest.index(">")]
