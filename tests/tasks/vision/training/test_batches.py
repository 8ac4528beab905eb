from __future__ import annotations

import pytest
import torch

from tasks.vision.training.batches import divided


@pytest.mark.parametrize(("count", "steps"), [(10, 3), (12, 3), (7, 7), (5, 1), (850, 27)])
def test_every_image_is_in_a_batch_once_and_sizes_differ_by_one(count: int, steps: int) -> None:
    batches = divided(torch.randperm(count), steps, one_size=False)
    assert len(batches) == steps
    assert torch.cat(batches).sort().values.tolist() == list(range(count))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


@pytest.mark.parametrize(("count", "steps"), [(10, 3), (12, 3), (7, 7), (5, 1), (850, 27)])
def test_batches_of_one_size_have_every_image_and_a_few_twice(count: int, steps: int) -> None:
    batches = divided(torch.randperm(count), steps, one_size=True)
    assert len(batches) == steps
    assert {len(batch) for batch in batches} == {-(-count // steps)}
    drawn = torch.cat(batches)
    assert torch.bincount(drawn, minlength=count).min() == 1
    assert len(drawn) - count < steps
