"""`python -m pipeline.conf`: one clear line instead of a failed run or a page of traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    '{"epochs": 3, "dataset": "digits"}': "",
    "": "",
    '{"epoch": 3}': "unknown parameter 'epoch'; did you mean 'epochs'?",
    '{"dataset": "cifar"}': "dataset='cifar': 'cifar' is not one of ['digits', 'cifar10'",
    '{"model": "alexnet"}': "model='alexnet': 'alexnet' is not one of ['fast_cnn'",
    '{"epochs": "3"}': "epochs='3': '3' is not of type 'integer'",
    '{"epochs": 0}': "epochs=0: 0 is less than the minimum of 1",
    '{"dataset": "image_folder"}': "dataset='image_folder' needs source",
    '{"validation_fraction": 0.5, "test_fraction": 0.5}': "leave no training images",
    "{epochs: 3}": "'{epochs: 3}' is not JSON",
    "[1]": "'[1]' is not a JSON object",
}
CHECK_ALL = """
import json, sys
from pipeline.conf import check_conf, find_dag
from tasks.errors import RequestError
dag, said = find_dag("daily_training"), []
for text in json.loads(sys.argv[1]):
    try:
        check_conf(dag, text)
        said.append("")
    except RequestError as error:
        said.append(str(error))
print("\\n" + json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(airflow: dict[str, str]) -> dict[str, str]:

    done = subprocess.run(
        [sys.executable, "-c", CHECK_ALL, json.dumps(list(CASES))], env=airflow, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("text", CASES)
def test_each_wrong_value_is_named(said: dict[str, str], text: str) -> None:
    if CASES[text]:
        assert CASES[text] in said[text]
        assert "\n" not in said[text]
    else:
        assert said[text] == ""


def test_an_unknown_dag_ends_the_command_in_one_line(airflow: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pipeline.conf", "daily_trainig", "{}"]
    done = subprocess.run(command, env=airflow, capture_output=True, text=True)
    assert done.returncode == 64
    known = "daily_training, rollback_champion"
    assert done.stderr.splitlines()[-1] == f"RequestError: DAG 'daily_trainig' is unknown; choose from: {known}"
