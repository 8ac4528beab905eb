"""A configuration is checked before a run: one clear line instead of a failed run or a page of traceback."""

from __future__ import annotations

import json

import pytest

from tasks.contract.compression import METHODS
from tests.dags.forked import Forks

CASES = {
    '{"epochs": 3, "dataset": "digits"}': "",
    "": "",
    '{"epoch": 3}': "unknown parameter 'epoch'; did you mean 'epochs'?",
    '{"dataset": "cifar"}': "dataset='cifar': 'cifar' is not one of ['digits', 'cifar10'",
    '{"model": "alexnet"}': "TrainRequest: model='alexnet': unknown; did you mean",
    '{"epochs": "3"}': "epochs='3': '3' is not of type 'integer'",
    '{"force": ["train"]}': "",
    '{"force": ["trian"]}': "force=['trian']: 'trian' is not one of "
    "['prepare', 'tune', 'train', 'compress', 'evaluate', 'all']",
    '{"epochs": 0}': "epochs=0: 0 is less than the minimum of 1",
    '{"dataset": "image_folder"}': "dataset='image_folder' needs source",
    '{"dataset": "image_folder", "source": "/data", "layout": "yolo"}': "layout='yolo': 'yolo' is not one of ['auto'",
    '{"dataset": "image_folder", "source": "/data", "label_pattern": "cat"}': "label_pattern='cat': no group `label`",
    '{"corrections": "https://host/fixed.csv"}': "corrections='https://host/fixed.csv': cannot be opened; give a file",
    '{"corrections": ""}': "",
    '{"corrections": "fixed.csv"}': "",
    '{"validation_fraction": 0.5, "test_fraction": 0.5}': "leave no training images",
    "{epochs: 3}": "'{epochs: 3}' is not JSON",
    "[1]": "'[1]' is not a JSON object",
    # What a later stage would refuse, an hour later.
    '{"deploy_timeout": 4}': "deploy_timeout=4: 4 is less than the minimum of 5",
    '{"compress": "int8", "calibration_images": 20}': "",
    '{"compress": "int4"}': f"compress='int4': 'int4' is not one of {['none', *METHODS]}",
    '{"compress": "prune", "pruning_ratio": 0.4, "compression_epochs": 3}': "",
    '{"compress": "prune", "pruning_ratio": 1}': "pruning_ratio=1: 1 is greater than or equal to the maximum of 1",
    '{"compress": "prune", "compression_epochs": 0}': "compression_epochs=0: 0 is less than the minimum of 1",
    '{"pruning_ration": 0.4}': "unknown parameter 'pruning_ration'; did you mean 'pruning_ratio'",
    '{"method": "int8"}': "unknown parameter 'method'",  # that is `compress` here
    '{"trained_by": "00000000000000000000000000000000"}': "unknown parameter 'trained_by'",
    '{"tuned_by": "newest"}': "tuned_by='newest': 'newest' does not match",
}
WEEKLY = {
    '{"trials": 10}': "",
    '{"learning_rate": 0.1, "batch_size": 64, "search_space": {"momentum": [0.8, 0.9]}}': "",
    '{"trials": 0}': "trials=0: 0 is less than the minimum of 1",
    '{"search_space": {"learning_rate": []}}': "an empty list leaves nothing to choose; give values, or null",
    '{"search_space": {"learning_rate": {"low": 0.1, "high": 0.01}}}': "low=0.1 must be less than high=0.01",
    '{"search_space": {"learning_rat": [0.1]}}': "search_space.learning_rat: unknown parameter",
    '{"searcher": "grid"}': "searcher='grid' tries every value, and learning_rate, weight_decay",
    '{"epochs": 1}': "grace_epochs=2 is more than epochs=1; lower it",
    '{"tuned_by": "00000000000000000000000000000000"}': "unknown parameter 'tuned_by'",
}
COMPRESSION = {
    '{"method": "prune", "pruning_ratio": 0.4, "compression_epochs": null}': "",
    '{"method": "pruned"}': f"method='pruned': 'pruned' is not one of {[*METHODS]}",
    '{"method": "prune", "pruning_ratio": 50}': "pruning_ratio=50: 50 is greater than or equal to the maximum of 1",
    '{"method": "prune", "pruning_ratio": 0}': "pruning_ratio=0: 0 is less than or equal to the minimum of 0",
    '{"method": "prune", "pruning_ratio": "0.4"}': "pruning_ratio='0.4': '0.4' is not of type 'number'",
    '{"method": "prune", "calibration_images": 5}': "calibration_images=5: 5 is less than the minimum of 10",
}
ROLLBACK = {
    '{"reason": "sees cats"}': "",  # `version` is left open here, and deploy's comes from the task before it
    '{"reason": "sees cats", "version": 2}': "",
    '{"reason": "sees cats", "version": 0}': "version=0",
    '{"reason": ""}': "reason=''",
}
PREDICTION = {
    '{"images": "photos.zip"}': "",
    '{"images": "s3://b/p/", "out": "s3://b/found/", "model_version": 3, "output_format": "csv"}': "",
    "{}": "images=''",
    '{"images": ""}': "images='': '' should be non-empty",
    '{"images": "https://host/a.zip"}': "images='https://host/a.zip' is neither a local path nor an s3:// address",
    '{"images": "a", "out": "ftp://host/a"}': "out='ftp://host/a' is neither a local path nor an s3:// address",
    '{"images": "a", "out": "s3://bucket"}': "out='s3://bucket' is a whole bucket; add a prefix of its own",
    '{"images": "a", "model_version": "champion"}': "model_version='champion': 'champion' is not of type 'integer'",
    '{"images": "a", "output_format": "json"}': "output_format='json': 'json' is not one of ['parquet', 'csv']",
    '{"images": "a", "max_failed": 2}': "max_failed=2: 2 is greater than the maximum of 1",
    '{"images": "a", "source": "b"}': "unknown parameter 'source'",
}
CONFS = {
    "batch_predict": PREDICTION,
    "daily_training": CASES,
    "weekly_tuning": WEEKLY,
    "weekly_compression": COMPRESSION,
    "rollback_champion": ROLLBACK,
}
CHECK_ALL = """
import json, sys
from pipeline.command.conf import check_conf, parse_conf
from pipeline.command.run import find_dag
from tasks.errors import RequestError
said, asked = [], json.loads(sys.argv[1])
dags = {name: find_dag(name) for name in dict(asked)}  # each reads the whole folder; a check changes nothing in a DAG
for dag, text in asked:
    try:
        check_conf(dags[dag], parse_conf(text))
        said.append("")
    except RequestError as error:
        said.append(str(error))
print("\\n" + json.dumps(said))
"""


ALL = [(dag, text) for dag, cases in CONFS.items() for text in cases]


@pytest.fixture(scope="module")
def said(forks: Forks) -> dict[tuple[str, str], str]:
    done = forks.run(CHECK_ALL, json.dumps(ALL))
    assert done.returncode == 0, done.stderr
    return dict(zip(ALL, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize(("dag", "text"), ALL)
def test_each_wrong_value_is_named(said: dict[tuple[str, str], str], dag: str, text: str) -> None:
    expected = CONFS[dag][text]
    if expected:
        assert expected in said[dag, text]
        assert "\n" not in said[dag, text]
    else:
        assert said[dag, text] == ""


def test_an_unknown_dag_ends_the_command_in_one_line(forks: Forks) -> None:
    command = "from runpy import run_module; run_module('pipeline', run_name='__main__', alter_sys=True)"  # python -m
    done = forks.run(command, "run", "daily_trainig", "{}")
    assert done.returncode == 64
    known = "batch_predict, daily_training, rollback_champion, weekly_compression, weekly_maintenance, weekly_tuning"
    assert done.stderr.splitlines()[-1] == f"RequestError: DAG 'daily_trainig' is unknown; choose from: {known}"
