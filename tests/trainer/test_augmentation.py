"""What is done to rows in training, by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modelwright_trainer import augmentation
from modelwright_trainer.learner import Batch

IMAGES = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6)


def test_a_moved_image_is_a_window_of_itself_with_its_edge_around() -> None:
    torch.manual_seed(0)
    moved = augmentation.shifted(IMAGES.repeat(40, 1, 1, 1), 2)
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    windows = {padded[one, :, y : y + 6, x : x + 6].tobytes() for one in range(2) for y in range(5) for x in range(5)}
    seen = {image.numpy().tobytes() for image in moved}
    assert seen <= windows
    assert len(seen) > 20


def test_an_image_turned_by_a_right_angle_is_numpy_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda rows, **_: torch.ones(rows))
    turned = augmentation.turned(IMAGES, 90.0)
    same = [np.allclose(turned.numpy(), np.rot90(IMAGES.numpy(), way, axes=(2, 3)), atol=1e-3) for way in (1, 3)]
    assert sum(same) == 1
    # A wide image turns as a square one does, and is not sheared: its middle column becomes its middle row.
    wide = torch.zeros(1, 1, 5, 9)
    wide[0, 0, :, 4] = 1
    line = augmentation.turned(wide, 90.0)[0, 0, 2]
    assert line[3:6].tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_about_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    many = IMAGES[:1].repeat(400, 1, 1, 1)
    for axis in (2, 3):
        changed = [not torch.equal(image, IMAGES[0]) for image in augmentation.mirrored(many, axis)]
        assert 150 < sum(changed) < 250


def test_mixed_rows_and_their_targets_have_the_same_share() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0])
    mixed = augmentation.mixed(Batch(torch.eye(4), labels), 0.5, 3)
    assert mixed.targets is not None
    torch.testing.assert_close(mixed.targets.sum(dim=1), torch.ones(4))
    # Features say which row each was, so that what they are shares of says what the targets must be.
    torch.testing.assert_close(mixed.features @ torch.nn.functional.one_hot(labels, 3).float(), mixed.targets)
    numbers = augmentation.mixed(Batch(torch.eye(4), torch.tensor([1.0, 2.0, 3.0, 4.0])), 0.5, 0)
    assert numbers.targets is not None
    torch.testing.assert_close(numbers.features @ torch.tensor([1.0, 2.0, 3.0, 4.0]), numbers.targets)


def test_noise_is_in_units_of_each_column_and_none_where_it_is_constant() -> None:
    torch.manual_seed(0)
    rows = torch.zeros(20_000, 3)
    added = augmentation.noisy(rows, torch.tensor([1.0, 100.0, 0.0]), 0.1)
    assert added.std(dim=0).tolist() == pytest.approx([0.1, 10.0, 0.0], rel=0.05)


def test_the_same_random_state_gives_the_same_rows() -> None:
    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(3)
        mixed = augmentation.mixed(Batch(torch.eye(4), torch.tensor([0, 1, 2, 0])), 0.5, 3)
        return [augmentation.shifted(IMAGES, 2), augmentation.turned(IMAGES, 30.0), mixed.features]

    assert all(torch.equal(one, other) for one, other in zip(drawn(), drawn(), strict=True))
