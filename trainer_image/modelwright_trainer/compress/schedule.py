"""How a step is spread over rounds: what goes in each, and what is trained in each."""

from __future__ import annotations


def sparsities(asked: float, rounds: int) -> list[float]:
    """How much is gone after each round: fast at first, where little is lost (the cubic schedule of Zhu and Gupta 2017,
    arXiv:1710.01878)."""
    return [asked * (1 - (1 - number / rounds) ** 3) for number in range(1, rounds + 1)]


def shares(epochs: int, rounds: int) -> list[int]:
    """The epochs of each round, as even as whole numbers are."""
    return [epochs * (number + 1) // rounds - epochs * number // rounds for number in range(rounds)]
