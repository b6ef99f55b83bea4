"""Job that sends the mails of `log.hooks` (`logs/mail_sender.py`) from the queue of all processes of the node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final

from moorage.logs.mail_hook import has_hooks
from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.shielding import run_to_completion

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from moorage.config.sections.log import Hook, Log
    from moorage.logs.mail_hook import MailQueue

__all__ = ["MailJob", "mail_jobs"]

_LINES_AT_ONCE: Final = 1000


def mail_jobs(log: Log, queue: MailQueue) -> list[Job]:
    """Return the job, if a hook is configured."""
    return [MailJob(log.hooks, queue)] if has_hooks(log) and queue.receiver is not None else []


@dataclass(frozen=True)
class MailJob(Job):
    """Sends in a thread; when it is cancelled, it sends everything once more and ends."""

    name: ClassVar[str] = "mails of log.hooks"
    runs_last: ClassVar[bool] = True

    hooks: Sequence[Hook]
    queue: MailQueue = field(compare=False)

    async def run(self, context: JobContext) -> None:
        from moorage.logs.mail_sender import MailSender  # noqa: PLC0415  smtplib: only where hooks are configured

        del context
        receiver = self.queue.receiver
        assert receiver is not None
        sender = MailSender(self.hooks)
        try:
            while True:
                await _readable(receiver, sender.wait_s())
                for line in islice(self.queue.receive(), _LINES_AT_ONCE):
                    sender.add(line)
                # A thread that is sending uses the digests until it ends.
                await run_to_completion(asyncio.to_thread(sender.send_due))
        finally:
            lines = list(self.queue.receive())
            while True:
                for line in lines:
                    sender.add(line)
                sender.send_all()
                # The master logs its last line while mails are sent.
                lines = list(self.queue.receive())
                if not lines:
                    break


async def _readable(receiver: socket.socket, limit_s: float | None) -> None:
    """Wait until there is something to receive, at most `limit_s` seconds."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(receiver.fileno(), ready.set)
    try:
        async with asyncio.timeout(limit_s):
            await ready.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(receiver.fileno())
