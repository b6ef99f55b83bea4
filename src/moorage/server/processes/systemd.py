"""Notifications of systemd by sd_notify(3), for units with `Type=notify` or `Type=notify-reload`."""

from __future__ import annotations

import os
import socket
import time

__all__ = ["notify", "reloading"]


def notify(state: str) -> None:
    """Send a state such as `READY=1` to the service manager, if there is one.  Errors are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.sendall(state.encode())
        except OSError:
            return


def reloading() -> None:
    """Report the beginning of a reload; `READY=1` ends it."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
