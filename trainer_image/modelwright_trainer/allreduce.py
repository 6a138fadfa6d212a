"""The fabric check: do the ranks of a job reach each other, is what they add up right, and how fast is it.

Each rank contributes tensors filled with its rank + 1; after an all-reduce with SUM, each entry of n ranks' tensors
must be n(n+1)/2. It runs over NCCL where there is a GPU and over Gloo elsewhere, as a training job would.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

from modelwright_trainer.outcome import Failed, output_place, report, write_output
from modelwright_trainer.rendezvous import Rendezvous, await_master, interface_of, local_address

if TYPE_CHECKING:
    import torch

SIZES = (4 * 1024, 1024 * 1024, 16 * 1024 * 1024)
"""Bytes of each timed tensor: what latency bounds, what bandwidth bounds, and one between."""
REPEATS = 5


def expected_sum(world_size: int) -> int:
    return world_size * (world_size + 1) // 2


def check(meeting: Rendezvous, output: str | None) -> None:
    """Runs the check as one rank; rank 0 prints the result and writes it to `output`. Raises Failed."""
    if output:
        output_place(output)  # a wrong address is said now, not after the others have been waited for
    began = time.monotonic()
    master = await_master(meeting)
    own = local_address(master, meeting.master_port)
    interface = interface_of(own)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    result = _run(meeting, master)
    result["interface"] = os.environ.get("GLOO_SOCKET_IFNAME", "")
    result["totalSeconds"] = round(time.monotonic() - began, 3)
    if meeting.rank == 0:
        text = json.dumps(result, indent=1)
        print(text, flush=True)
        if output:
            write_output(output, text.encode() + b"\n")
    report(result)


def _run(meeting: Rendezvous, master: str) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", meeting.rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    deadline = time.monotonic() + meeting.timeout
    try:
        store = dist.TCPStore(
            master,
            meeting.master_port,
            meeting.world_size,
            is_master=meeting.rank == 0,
            timeout=datetime.timedelta(seconds=meeting.timeout),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        where = f"{meeting.master_addr} ({master}) port {meeting.master_port}"
        verb = "listen at" if meeting.rank == 0 else "reach"
        raise Failed("RendezvousFailed", f"rank {meeting.rank}: cannot {verb} {where}: {_first_line(error)}") from error
    _await_ranks(store, meeting, deadline)
    try:
        left = datetime.timedelta(seconds=max(deadline - time.monotonic(), 10))
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("allreduce", store),
            rank=meeting.rank,
            world_size=meeting.world_size,
            timeout=left,
        )
        hosts: list[Any] = [None] * meeting.world_size
        dist.all_gather_object(hosts, socket.gethostname())
        sums, measured = zip(*(_measure(size, meeting, device) for size in SIZES), strict=True)
        dist.barrier()
    except RuntimeError as error:
        raise Failed("AllReduceFailed", f"rank {meeting.rank}: {_first_line(error)}") from error
    finally:
        with contextlib.suppress(Exception):  # it tells nothing that the failure did not
            dist.destroy_process_group()
    return {
        "worldSize": meeting.world_size,
        "rank": meeting.rank,
        "sum": sums[-1],
        "backend": "nccl" if cuda else "gloo",
        "hosts": hosts,
        "seconds": measured[-1]["seconds"],
        "bytesPerSecond": measured[-1]["bytesPerSecond"],
        "sizes": list(measured),
        "torch": torch.__version__,
    }


def _await_ranks(store: Any, meeting: Rendezvous, deadline: float) -> None:
    """Waits until each rank has said that it is there, so that the error can name those who have not."""
    store.set(f"rank/{meeting.rank}", socket.gethostname())
    waiting = list(range(meeting.world_size))
    while waiting:
        try:
            waiting = [rank for rank in waiting if not store.check([f"rank/{rank}"])]
        except RuntimeError as error:
            raise Failed("MasterLost", f"rank {meeting.rank}: rank 0's store is gone: {_first_line(error)}") from error
        if waiting and time.monotonic() > deadline:
            named = ", ".join(map(str, waiting[:20])) + (", …" if len(waiting) > 20 else "")
            raise Failed(
                "RanksMissing",
                f"rank {meeting.rank}: of {meeting.world_size} ranks, {named} did not come in {meeting.timeout:.0f} s",
            )
        if waiting:
            time.sleep(0.1)


def _measure(size: int, meeting: Rendezvous, device: torch.device) -> tuple[int, dict[str, Any]]:
    """An entry of the sums, all of which are equal, and the median time of an all-reduce of `size` bytes of float32.
    Raises Failed where an entry is not what it must be."""
    import torch
    import torch.distributed as dist

    expected = expected_sum(meeting.world_size)
    seconds: list[float] = []
    reduced = 0
    for attempt in range(REPEATS + 1):
        tensor = torch.full((size // 4,), float(meeting.rank + 1), dtype=torch.float32, device=device)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:  # the first sets up connections
            seconds.append(time.perf_counter() - began)
        reduced = int(tensor[0].item())
        wrong = int((tensor != expected).sum())
        if wrong:
            raise Failed(
                "WrongSum",
                f"rank {meeting.rank}: {wrong} of {tensor.numel()} entries of a sum of {size} bytes are not {expected}"
                f" (the first: {tensor[tensor != expected][0].item()})",
            )
    median = statistics.median(seconds)
    return reduced, {"bytes": size, "seconds": round(median, 6), "bytesPerSecond": round(size / median)}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
