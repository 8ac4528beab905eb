from __future__ import annotations

import numpy as np

from tasks.vision.evaluation.agreement import Agreement

TRAINED = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]], np.float32)


def test_differences_of_another_order_of_addition_agree() -> None:
    found = Agreement.of(TRAINED + np.float32(2e-6), TRAINED)
    assert found.holds
    assert found.changed == 0
    assert str(found) == "answers as trained on 3 images, within 2e-06"


def test_other_answers_do_not_agree() -> None:
    served = TRAINED.copy()
    served[0] = [0.4, 0.6]
    found = Agreement.of(served, TRAINED)
    assert not found.holds
    assert (found.changed, found.images) == (1, 3)
    assert "1 of 3 images get another class, a probability differs by 0.3, allowed 0.001" in str(found)


def test_answers_that_are_no_numbers_do_not_agree() -> None:
    assert not Agreement.of(np.full_like(TRAINED, np.nan), TRAINED).holds
