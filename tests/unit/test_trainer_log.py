"""What the wrapper keeps of what its ranks print, and how it tells how long they take yet."""

from __future__ import annotations

from modelwright_trainer.progressfile import Pace
from modelwright_trainer.run import last_lines

# As torch 2.9 prints it when a rank has ended with exit code 11.
TORCHRUN = """\
E1128 01:50:00.123000 77 site-packages/torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: 11)
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
modelwright_trainer.worker FAILED
------------------------------------------------------------
Root Cause (first observed failure):
  exitcode  : 11 (pid: 78)
============================================================
""".splitlines()


def test_the_ranks_last_lines_are_kept_and_not_what_torchrun_says_of_their_end() -> None:
    printed = [*(f"epoch={number}" for number in range(9)), "", "Traceback (most recent call last):", "ValueError: no"]
    assert last_lines([*printed, *TORCHRUN]) == (
        "epoch=6", "epoch=7", "epoch=8", "Traceback (most recent call last):", "ValueError: no",
    )  # fmt: skip
    assert last_lines(TORCHRUN) == ()
    assert last_lines([]) == ()


def test_what_torchrun_says_in_between_is_left_out() -> None:
    sending = "W1128 01:50:00.1 7 torch/distributed/elastic/multiprocessing/api.py:900] Sending process 9 SIGTERM"
    assert last_lines(["epoch=1", sending, "rank 0: Preempted"]) == ("epoch=1", "rank 0: Preempted")


def test_a_line_is_cut_and_holds_nothing_that_moves_a_cursor() -> None:
    (line,) = last_lines(["\x1b[31m" + "x" * 500])
    assert line == "[31m" + "x" * 156


def test_the_time_left_is_told_by_the_mean_pace() -> None:
    pace = Pace()
    assert pace.eta(100, 400, 0.0) is None, "nothing is known of its pace yet"
    assert pace.eta(100, 400, 5.0) is None
    assert pace.eta(200, 400, 10.0) == 20.0
    assert pace.eta(300, 400, 40.0) == 20.0, "a pause for a checkpoint is part of it"
    assert pace.eta(400, 400, 50.0) == 0.0
    assert pace.eta(10, 400, 60.0) is None, "it began anew"
    assert pace.eta(500, 0, 70.0) is None, "code that does not say how many steps there are"
