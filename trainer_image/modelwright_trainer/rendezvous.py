"""How the ranks of a job find each other: rank 0's name in DNS, and the network interface that leads there.

The rendezvous is static: rank and world size come from the Indexed Job, rank 0's name from its headless Service. The
name of a pod that was only just started is not in DNS yet, so its absence means "wait", until the timeout.
"""

from __future__ import annotations

import dataclasses
import fcntl
import socket
import struct
import time
from collections.abc import Callable

from modelwright_trainer.outcome import Failed

_SIOCGIFADDR = 0x8915
_LOOK_EVERY_SECONDS = 0.5
_CONNECT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Rendezvous:
    """Where the ranks meet; `timeout` in seconds is for all of them to have come."""

    master_addr: str
    master_port: int
    rank: int
    world_size: int
    timeout: float


def _resolve(host: str, port: int) -> str:
    return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])


def _connect(address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=_CONNECT_SECONDS):
        return


def await_master(
    meeting: Rendezvous,
    *,
    resolve: Callable[[str, int], str] = _resolve,
    connect: Callable[[str, int], None] = _connect,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Rank 0's IP address, as soon as DNS has it and, for the other ranks, rank 0 listens there. The name is looked up
    again each time: a restarted pod has another address. Raises Failed after the rendezvous' timeout."""
    deadline = now() + meeting.timeout
    while True:
        address = ""
        try:
            address = resolve(meeting.master_addr, meeting.master_port)
            if meeting.rank > 0:
                connect(address, meeting.master_port)
        except OSError as error:
            if now() >= deadline:
                raise _not_found(meeting, address, error) from error
            sleep(_LOOK_EVERY_SECONDS)
        else:
            return address


def _not_found(meeting: Rendezvous, address: str, error: OSError) -> Failed:
    who = f"rank {meeting.rank}: {meeting.master_addr}"
    if address:
        return Failed(
            "MasterNotListening",
            f"{who} ({address}) does not answer at port {meeting.master_port} in {meeting.timeout:.0f} s ({error});"
            " is rank 0 running, and does a NetworkPolicy stand between?",
        )
    return Failed(
        "MasterNotFound",
        f"{who} has no address in {meeting.timeout:.0f} s ({error});"
        " is rank 0's pod running, and does its headless Service publish not-ready addresses?",
    )


def local_address(remote: str, port: int) -> str:
    """This machine's own address on the way to `remote`; connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((remote, port))
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The name of the interface with this IPv4 address; None where there is none.

    Gloo takes the interface that the host name resolves to, which is the loopback on a machine whose /etc/hosts says
    127.0.1.1: then the ranks of two machines never connect. So it is told the interface, as GLOO_SOCKET_IFNAME.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
