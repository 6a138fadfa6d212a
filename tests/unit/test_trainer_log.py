"""What the wrapper tells of its ranks: what they printed last, how long they take yet, how busy their GPUs are."""

from __future__ import annotations

from modelwright_trainer.gpus import Gpus, Use, parsed
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


def test_the_use_of_gpus_is_their_mean_as_far_as_it_is_told() -> None:
    assert parsed("80, 20000, 80000\n40, 60000, 80000\n") == Use(60.0, 50.0)
    assert parsed("[N/A], 20000, 80000\n") == Use(None, 25.0), "a part of a GPU"
    for nothing in ("", "No devices were found\n", "[N/A], [N/A], [N/A]\n"):
        assert parsed(nothing) == Use()


def test_gpus_are_looked_at_now_and_then_however_often_one_asks() -> None:
    looks: list[float] = []
    now = 0.0

    def ask() -> str:
        looks.append(now)
        return f"{len(looks)}, 1, 2\n"

    gpus = Gpus(ask, lambda: now)
    for second in range(25):
        now = float(second)
        assert gpus.use().percent == 1 + second // 10
    assert looks == [0.0, 10.0, 20.0]
