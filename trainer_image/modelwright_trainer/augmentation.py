"""Changes of the rows that are trained on. All is drawn from torch's random state, which the loop sets for each
step."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from modelwright_trainer.learner import Batch


def noisy(rows: torch.Tensor, deviation: torch.Tensor, share: float) -> torch.Tensor:
    """`rows` [rows, columns] with normal noise of `share` times each column's `deviation` [columns]."""
    return rows + torch.randn_like(rows) * deviation.to(rows) * share


def mixed(batch: Batch, alpha: float, classes: int) -> Batch:
    """Each row mixed with another, features and targets (mixup, arXiv:1710.09412): one share for the batch, from
    Beta(alpha, alpha). Class indices become shares [rows, classes]; with `classes` 0 the targets are numbers."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(batch.rows, device=batch.features.device)
    targets = functional.one_hot(batch.targets, classes).to(batch.features) if classes else batch.targets
    return Batch(
        share * batch.features + (1 - share) * batch.features[other], share * targets + (1 - share) * targets[other]
    )


def shifted(images: torch.Tensor, most: int) -> torch.Tensor:
    """Images [rows, channels, height, width], each moved by up to `most` pixels both ways; its edge fills what it
    leaves."""
    rows, channels, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * most + 1, (2, rows), device=device)
    lines = (down[:, None] + torch.arange(height, device=device))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width, device=device))[:, None, None, :]
    each = torch.arange(rows, device=device)[:, None, None, None]
    return padded[each, torch.arange(channels, device=device)[None, :, None, None], lines, columns]


def turned(images: torch.Tensor, most: float) -> torch.Tensor:
    """Images [rows, channels, height, width], each turned about its middle by up to `most` degrees both ways, bilinear;
    its edge fills what it leaves."""
    rows, _, height, width = images.shape
    angles = (2 * torch.rand(rows, device=images.device) - 1) * math.radians(most)
    sine, cosine, none = angles.sin(), angles.cos(), torch.zeros_like(angles)
    # The grid's axes both go from -1 to 1, whatever the sides are.
    across, along = sine * (height / width), sine * (width / height)
    turns = torch.stack([torch.stack([cosine, -across, none], 1), torch.stack([along, cosine, none], 1)], 1)
    grid = functional.affine_grid(turns, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mirrored(images: torch.Tensor, axis: int) -> torch.Tensor:
    """Images [rows, channels, height, width], of which half, drawn one by one, are mirrored along an axis."""
    chosen = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(axis), images)
