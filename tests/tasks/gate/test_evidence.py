from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.gate.evidence import Evidence, Scores

STORED = '{"loading":null,"scores":{"accuracy":0.9,"macro_f1":0.8,"calibration_error":0.1},"champion":null}'


def test_evidence_of_a_release_without_top_5_accuracy_is_read() -> None:
    scores = Evidence.model_validate_json(STORED).scores
    assert scores is not None
    assert scores.top5_accuracy is None


def test_top_5_accuracy_is_stored() -> None:
    scores = Scores(accuracy=0.9, macro_f1=0.8, calibration_error=0.1, top5_accuracy=0.99)
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
    with pytest.raises(ValidationError, match="top5_accuracy"):
        Scores(accuracy=0.9, macro_f1=0.8, calibration_error=0.1, top5_accuracy=1.1)
