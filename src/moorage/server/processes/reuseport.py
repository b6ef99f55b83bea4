"""Distributes new connections among sockets that listen on one port with SO_REUSEPORT.

The kernel chooses one socket of the group for each new connection, by a hash of its addresses, and takes no
notice of whether its owner accepts: with one of two workers stopped, half of all clients wait in its queue.
A classic BPF program attached to the group makes the choice instead, at random among given sockets.

A choice is final: what is in a socket's queue stays there until its owner, or another process that has the same
socket, accepts it.  Linux moves queued connections only when a socket is closed, and only with
`net.ipv4.tcp_migrate_req`.  The queue is bounded by the backlog (listen(2)).

Source: socket(7), SO_REUSEPORT and SO_ATTACH_REUSEPORT_CBPF (Linux 4.5); Documentation/networking/filter.rst;
net/core/sock_reuseport.c for the order of the group.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["program", "release", "steer"]

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_DETACH_REUSEPORT_BPF: Final = 68
_RANDOM: Final = 0xFFFFF000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h: a load from there is a random number."""
_LD_W_ABS, _ALU_MOD_K, _JMP_JEQ_K, _RET_K = 0x20, 0x94, 0x15, 0x06
_INSTRUCTION: Final = struct.Struct("HBBI")
"""`struct sock_filter`: code, jump if true, jump if false, k."""


def program(positions: Sequence[int]) -> bytes:
    """Return a classic BPF program that returns one of `positions` at random, with equal probability.

    Raises ValueError for none.
    """
    if not positions:
        raise ValueError("no socket to choose")
    code = [(_LD_W_ABS, 0, 0, _RANDOM), (_ALU_MOD_K, 0, 0, len(positions))]
    for number, position in enumerate(positions[:-1]):
        code += [(_JMP_JEQ_K, 0, 1, number), (_RET_K, 0, 0, position)]
    code.append((_RET_K, 0, 0, positions[-1]))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def steer(member: socket.socket, positions: Sequence[int]) -> None:
    """Let the kernel choose among the sockets at `positions` of the group that `member` listens in.

    Positions count from 0 in the order in which the sockets began to listen; when one is closed, the last one
    moves to its position.  A position outside the group makes the kernel choose by its hash again.  Raises
    OSError where the kernel has no such programs.
    """
    code = program(positions)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    filter_program = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter_program)


def release(member: socket.socket) -> None:
    """Let the kernel choose by its hash again.  Raises OSError where there is nothing to take back (Linux 5.3)."""
    member.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
