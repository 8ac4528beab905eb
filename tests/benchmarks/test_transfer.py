"""The page of the benchmark of transfer learning, and what it reads from a run's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import transfer
from benchmarks.transfer_accuracy import Outcome, outcome, scaled, table
from benchmarks.transfer_contention import busy_cores
from benchmarks.transfer_speed import rates_table

LOG = """\
2026-11-26T08:00:00.000000Z [info     ] prepare: request {"dataset":"image_folder"} [task]
2026-11-26T08:00:05.500000Z [info     ] prepare: done in 4.1 s: fingerprint=ab, classes=10 [task]
2026-11-26T08:00:06.000000Z [info     ] train: request {"prepare_run_id":"1"} [task]
2026-11-26T08:01:07.250000Z [info     ] train: done in 60.0 s: epochs=12, validation_accuracy=0.79 [task]
2026-11-26T08:01:08.000000Z [info     ] evaluate: request {} [task]
2026-11-26T08:01:20.000000Z [info     ] evaluate: done in 11.0 s: champion_accuracy=0.6, accuracy=0.7705 [task]
"""


def test_accuracy_and_seconds_are_read_from_a_log() -> None:
    assert outcome(LOG, whole=90.0) == Outcome(accuracy=0.7705, whole=90.0, training=61.25)


@pytest.mark.parametrize("stage", ["train: done", "train: request", "evaluate: done"])
def test_a_log_without_a_result_is_refused(stage: str) -> None:
    with pytest.raises(RuntimeError, match="no result of train or evaluate"):
        outcome(LOG.replace(stage, "x"), whole=90.0)


def test_each_side_is_compared_with_ours_of_as_many_images() -> None:
    rows = [
        (100, "ours", Outcome(0.77, 100.0, 60.0)),
        (100, "peer", Outcome(0.70, 50.0, 40.0)),
        (20, "ours", Outcome(0.66, 80.0, 30.0)),
        (20, "peer", Outcome(0.67, 160.0, 30.0)),
    ]
    assert table(rows)[2:] == [
        "| 100 | ours | 77.00% | +0.0 | 100 | 1.00 | 60 |",
        "| 100 | peer | 70.00% | +7.0 | 50 | 0.50 | 40 |",
        "| 20 | ours | 66.00% | +0.0 | 80 | 1.00 | 30 |",
        "| 20 | peer | 67.00% | -1.0 | 160 | 2.00 | 30 |",
    ]


def test_rates_are_compared_with_ours() -> None:
    rows = rates_table({"ours": [30.0, 20.0, 40.0], "plain": [20.0, 20.0, 20.0]}, "ours")
    assert rows[2:] == ["| ours | 20.0 | 30.0 | 40.0 | 1.00 |", "| plain | 20.0 | 20.0 | 20.0 | 1.50 |"]


def test_a_smaller_number_of_images_scales_every_count() -> None:
    assert [scaled(count, 5) for count in (100, 200, 20_000, 20)] == [5, 10, 1000, 3]


def test_a_new_page_says_what_is_not_measured() -> None:
    text = transfer.page("", {"## Reading photos": "fast"})
    assert "## Reading photos\n\nfast\n" in text
    assert text.count(transfer.NOT_MEASURED) == len(transfer.TITLES) - 1


def test_a_page_keeps_other_sections_and_notes() -> None:
    first = transfer.page("", {"## Accuracy": "good"}) + "\n## Notes\n\nby hand, with\n\n### a part\n"
    second = transfer.page(first, {"## Reading photos": "fast"})
    assert "## Accuracy\n\ngood\n" in second
    assert second.endswith("## Notes\n\nby hand, with\n\n### a part\n")
    assert transfer.page(second, {"## Accuracy": "better"}) == second.replace("good", "better")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds=0: give 1 or more"),
        ([], "is not a file; give CIFAR-10"),
        (["--part", "x"], "invalid"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        transfer.main(["--source", str(tmp_path / "missing.tar.gz"), *arguments])
    assert message in capsys.readouterr().err


def test_busy_processes_end_with_the_block() -> None:
    with busy_cores(1) as processes:
        assert [process.is_alive() for process in processes] == [True]
    assert [process.is_alive() for process in processes] == [False]
