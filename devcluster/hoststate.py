"""What a cluster could leave behind on a machine: taken before and after, the difference must be empty."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from devcluster import host, processes
from devcluster.config import Cluster


def _lines(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except FileNotFoundError:
        return []


def _family(pid: int) -> set[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return {pid, *(child.pid for child in process.children(recursive=True))}
    return set()


def _processes(without: set[int]) -> list[str]:
    """The processes that somebody could have left behind: children of the machine's first process, and whatever has a
    cluster's mark. Those of other people's running programs come and go; they hang below a parent."""
    own = psutil.Process()
    without = without | _family(own.pid) | {parent.pid for parent in own.parents()}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in without or process.pid == 2 or process.ppid() == 2:
                continue
            if process.ppid() <= 1 or "MODELWRIGHT_DEVCLUSTER" in process.environ():
                found.append(f"{process.pid} {' '.join(process.cmdline()) or process.name()}")
    return found


def _mounts() -> list[str]:
    # Without the numbers of mounts: they say nothing of what is mounted where.
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        rest = words[words.index("-") + 1 :]
        found.append(f"{words[4]} {words[5]} {rest[0]} {rest[1]}")
    return found


def _addresses() -> list[str]:
    listed = json.loads("".join(_lines("ip", "-json", "address")) or "[]")
    return [
        f"{link['ifname']} {address['local']}/{address['prefixlen']}"
        for link in listed
        for address in link.get("addr_info", [])
    ]


def _cgroups() -> list[str]:
    if not host.CGROUPS.exists():
        return []
    return [folder for folder, _, _ in os.walk(host.CGROUPS)]


def _namespaces(without: set[int]) -> list[str]:
    found = []
    for line in _lines("lsns", "--noheadings", "--type", "net", "--output", "NS,PID"):
        namespace, pid = line.split()
        if int(pid) not in without:
            found.append(namespace)
    return found


def snapshot(without: Sequence[Cluster] = ()) -> dict[str, set[str]]:
    """Processes, mounts, links, addresses, routes, nftables, cgroups, network namespaces, sysctls of this machine.

    What changes in the clusters `without` while they run is left out.
    """
    left_out: set[int] = set()
    for cluster in without:
        init = processes.read_init(cluster.state)
        left_out |= _family(init.pid) if init else set()
    groups = tuple(f"/{cluster.cgroup}/" for cluster in without)
    return {
        "processes": set(_processes(left_out)),
        "mounts": set(_mounts()),
        "links": set(os.listdir("/sys/class/net")),  # noqa: PTH208
        "addresses": set(_addresses()),
        "routes": set(_lines("ip", "route", "show", "table", "all")),
        "nftables": set(_lines("nft", "list", "ruleset")),
        "cgroups": {path for path in _cgroups() if not any(group in f"{path}/" for group in groups)},
        "network namespaces": set(_namespaces(left_out)),
        "sysctls": {f"{name}={value}" for name, value in host.read_sysctls().items()},
        "ip_forward": {Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()},
    }


def differences(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[str]:
    """What `after` has that `before` had not, and the reverse, a line each; a process that ended is no difference."""
    lines = []
    for kind, earlier in before.items():
        lines += [f"{kind}: + {item}" for item in sorted(after[kind] - earlier)]
        if kind != "processes":
            lines += [f"{kind}: - {item}" for item in sorted(earlier - after[kind])]
    return lines
