from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import EvaluateRequest, RegisterRequest, RegisterResult
from tasks.errors import ChangedError, DataError, ModelError
from tasks.records import registry, removed_weights, tracking, tuned_sets
from tasks.records.inputs.evaluation import EvaluateInputs
from tasks.settings import Settings
from tasks.stages import evaluate, register
from tests import stored_files
from tests.tasks.store_copies import Beginnings

PERFECT = [0, 1, 2, 3]
THREE_OF_FOUR = [0, 1, 2, 2]
Evaluated = Callable[[list[int], str], str]
Register = Callable[[str, str], RegisterResult]
TrainRun = Callable[..., str]


@pytest.fixture
def evaluated(settings: Settings, train_run: TrainRun, identity: Callable[[str], TaskIdentity]) -> Evaluated:
    """Train and evaluate a model by its table, on a day by its name."""

    def call(table: list[int], day: str) -> str:
        task = identity("evaluate").model_copy(update={"dag_run_id": day})
        request = EvaluateRequest.model_validate(
            {"task": task, "train_run_id": train_run(table), "registered_model": "pets"}
        )
        with tracking.stage_run(request, "evaluate", settings) as run:
            return evaluate.run(request, EvaluateInputs.resolve(request, run), run, settings).run_id

    return call


@pytest.fixture
def run_register(settings: Settings, identity: Callable[[str], TaskIdentity]) -> Register:
    def call(evaluate_run_id: str, day: str) -> RegisterResult:
        task = identity("register").model_copy(update={"dag_run_id": day})
        request = RegisterRequest.model_validate(
            {"task": task, "evaluate_run_id": evaluate_run_id, "approval": {}, "registered_model": "pets"}
        )
        with tracking.stage_run(request, "register", settings) as run:
            return register.run(request, run, settings)

    return call


@pytest.fixture
def perfect(beginnings: Beginnings, settings: Settings, evaluated: Evaluated) -> str:
    """The test's store has the verdict on a perfect model, the first of all; the ID of its evaluate run."""
    return beginnings.begin("perfect", settings, lambda: evaluated(PERFECT, "mon"))


@pytest.fixture
def champion(beginnings: Beginnings, settings: Settings, evaluated: Evaluated, run_register: Register) -> str:
    """The test's store has a champion, which knows three classes of four; the ID of its evaluate run."""

    def make() -> str:
        evaluation = evaluated(THREE_OF_FOUR, "mon")
        run_register(evaluation, "mon")
        return evaluation

    return beginnings.begin("champion", settings, make)


def versions() -> int:
    return len(MlflowClient().search_model_versions("name = 'pets'"))


def aliases() -> dict[str, int]:
    return {name: int(v) for name, v in MlflowClient().get_registered_model("pets").aliases.items()}


def test_the_first_good_model_is_champion(perfect: str, run_register: Register) -> None:
    evaluation = perfect
    result = run_register(evaluation, "mon")
    assert result.promoted, result.reason
    assert (result.version, result.created, result.promoted, result.previous_champion) == (1, True, True, None)
    assert aliases() == {"champion": 1, "challenger": 1}
    version = registry.by_number("pets", 1)
    train_run_id = tracking.tag_of(evaluation, "pipeline.train_run_id")
    assert version.run_id == train_run_id
    assert version.tags["pipeline.evaluate_run_id"] == evaluation
    assert version.tags["pipeline.key"] == "daily/mon/register/-1"
    for name in ("pipeline.train_run_id", "pipeline.prepare_run_id", "pipeline.fingerprint", "pipeline.model_sha256"):
        assert version.tags[name]
    # The version is the very model that was trained, not a copy logged again.
    assert version.source == tracking.tag_of(train_run_id, "pipeline.logged_model_uri")
    assert mlflow.pytorch.load_model("models:/pets@champion")


@pytest.mark.usefixtures("champion")
def test_a_version_names_the_search_that_its_hyperparameters_come_from(
    evaluated: Evaluated, run_register: Register
) -> None:
    second = evaluated(PERFECT, "tue")
    MlflowClient().set_tag(tracking.tag_of(second, "pipeline.train_run_id"), tuned_sets.TUNE_RUN, "a" * 32)
    run_register(second, "tue")
    assert tuned_sets.TUNE_RUN not in registry.by_number("pets", 1).tags
    assert registry.by_number("pets", 2).tags[tuned_sets.TUNE_RUN] == "a" * 32


def test_a_version_carries_its_model_card(champion: str) -> None:
    description = registry.by_number("pets", 1).description
    for heading in ("What it is", "Data", "Training", "Evidence", "Limits", "Runs"):
        assert f"### {heading}\n" in description
    assert "| accuracy | 0.75 | 0.3 | pass |" in description
    assert "Weakest classes, by recall: `dog` 0.000" in description
    assert champion in description


def test_twice_is_once(perfect: str, run_register: Register) -> None:
    first, second = run_register(perfect, "mon"), run_register(perfect, "mon")
    assert (second.version, second.created, second.promoted) == (first.version, True, True)
    assert versions() == 1


def test_the_same_weights_on_another_day_are_the_same_version(
    perfect: str, evaluated: Evaluated, run_register: Register
) -> None:
    run_register(perfect, "mon")
    result = run_register(evaluated(PERFECT, "tue"), "tue")
    assert (result.version, result.created, result.promoted, result.previous_champion) == (1, False, True, None)
    assert versions() == 1


def test_weights_that_were_removed_and_trained_again_become_a_version_of_their_own(
    perfect: str, evaluated: Evaluated, run_register: Register
) -> None:
    """Otherwise the champion would be a version without files."""
    run_register(perfect, "mon")
    MlflowClient().delete_registered_model_alias("pets", "champion")
    MlflowClient().set_model_version_tag("pets", "1", removed_weights.TAG, "on 2026-11-28 by clean: refused")
    evaluation = evaluated(PERFECT, "tue")
    first, second = run_register(evaluation, "tue"), run_register(evaluation, "tue")
    assert [(made.version, made.created, made.promoted) for made in (first, second)] == [(2, True, True)] * 2
    assert aliases() == {"champion": 2, "challenger": 2}


@pytest.mark.usefixtures("champion")
def test_a_better_model_takes_over(evaluated: Evaluated, run_register: Register) -> None:
    result = run_register(evaluated(PERFECT, "tue"), "tue")
    assert (result.version, result.promoted, result.previous_champion) == (2, True, 1)
    assert aliases() == {"champion": 2, "challenger": 2}


def test_a_worse_model_is_kept_as_challenger(perfect: str, evaluated: Evaluated, run_register: Register) -> None:
    run_register(perfect, "mon")
    result = run_register(evaluated(THREE_OF_FOUR, "tue"), "tue")
    assert (result.version, result.promoted) == (2, False)
    assert aliases() == {"champion": 1, "challenger": 2}


@pytest.mark.usefixtures("champion")
def test_a_verdict_against_a_former_champion_is_stale(evaluated: Evaluated, run_register: Register) -> None:
    late = evaluated([0, 1, 2, 1], "tue")  # judged against version 1 ...
    run_register(evaluated(PERFECT, "wed"), "wed")  # ... which is no longer champion when it comes to register
    before = (versions(), aliases())
    with pytest.raises(ModelError, match=r"version 2 now.*version 1.*evaluate"):
        run_register(late, "tue")
    assert (versions(), aliases()) == before


def test_a_crash_before_the_alias_is_repaired_by_the_retry(
    perfect: str, run_register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ConnectionError("server away")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", crash)
        with pytest.raises(ConnectionError):
            run_register(perfect, "mon")
    assert (versions(), aliases()) == (1, {})
    result = run_register(perfect, "mon")
    assert (result.version, result.promoted) == (1, True)
    assert (versions(), aliases()) == (1, {"champion": 1, "challenger": 1})


def test_without_a_verdict_nothing_is_registered(
    settings: Settings, run_register: Register, train_run: TrainRun
) -> None:
    trained = train_run(PERFECT)
    with pytest.raises(DataError, match=r"no tag 'pipeline\.train_run_id'"):
        run_register(trained, "mon")
    assert MlflowClient().search_registered_models() == []


def artifact_of(evaluation: str, name: str) -> Path:
    """An artifact of an evaluate run in the store, as somebody with a key to the bucket finds it."""
    return stored_files.of_run(evaluation) / name


def rewritten(evaluation: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = artifact_of(evaluation, name)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def trust(evaluation: str, *names: str) -> None:
    """Take the digests of a run away, as in one of an earlier release."""
    for name in names:
        MlflowClient().delete_tag(evaluation, f"pipeline.sha256.{name}")


@pytest.fixture
def refused(perfect: str, evaluated: Evaluated, run_register: Register) -> str:
    """The test's store has a perfect champion; the ID of the evaluate run of a worse model."""
    run_register(perfect, "mon")
    return evaluated(THREE_OF_FOUR, "tue")


def promote(verdict: dict[str, Any]) -> None:
    verdict["promote"] = True


def pass_all(verdict: dict[str, Any]) -> None:
    verdict["promote"] = True
    for check in verdict["checks"]:
        check["passed"] = True


def improve(evidence: dict[str, Any]) -> None:
    evidence["champion"]["comparison"] |= {"gained": 30, "lost": 0, "p_value": 1e-6, "low": 0.1, "high": 0.3}


@pytest.mark.parametrize(
    ("name", "change"), [("verdict.json", promote), ("verdict.json", pass_all), ("evidence.json", improve)]
)
def test_what_someone_changed_in_the_store_stops_the_day(
    refused: str, run_register: Register, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    rewritten(refused, name, change)
    with pytest.raises(ChangedError, match=f"{name} of run {refused} was changed in the store .*evaluate"):
        run_register(refused, "tue")
    assert (versions(), aliases()) == (1, {"champion": 1, "challenger": 1})


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("verdict.json", promote, "promote=True does not follow from the checks"),
        ("verdict.json", pass_all, "says .promoted: .*but its evidence and policy give .refused: "),
        ("evidence.json", improve, "says .refused: .*but its evidence and policy give "),
    ],
)
def test_a_verdict_is_derived_from_the_evidence_also_without_digests(
    refused: str, run_register: Register, name: str, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    trust(refused, "verdict.json", "evidence.json")
    rewritten(refused, name, change)
    with pytest.raises(ChangedError, match=words):
        run_register(refused, "tue")
    assert (versions(), aliases()) == (1, {"champion": 1, "challenger": 1})


def test_a_verdict_of_an_earlier_release_is_registered(refused: str, run_register: Register) -> None:
    trust(refused, "verdict.json", "evidence.json")
    result = run_register(refused, "tue")
    assert (result.version, result.promoted) == (2, False)


def test_a_verdict_is_derived_by_the_policy_of_its_evaluation(
    perfect: str,
    settings: Settings,
    train_run: TrainRun,
    identity: Callable[[str], TaskIdentity],
    run_register: Register,
) -> None:
    """Every field of the policy is read back from the params of the run, also those that are not given."""
    task = identity("evaluate").model_copy(update={"dag_run_id": "tue"})
    strict = {"min_accuracy": 0.9, "proof": "not_worse", "max_latency_ms": 1e4, "min_class_recall": 0.01}
    request = EvaluateRequest.model_validate(
        {"task": task, "train_run_id": train_run(THREE_OF_FOUR), "registered_model": "pets", **strict}
    )
    with tracking.stage_run(request, "evaluate", settings) as run:
        judged = evaluate.run(request, EvaluateInputs.resolve(request, run), run, settings)
    assert "0.9000, the floor" in judged.reason
    result = run_register(judged.run_id, "tue")
    assert (result.promoted, result.reason) == (False, judged.reason)


def test_damaged_files_without_digests_are_named(refused: str, run_register: Register) -> None:
    trust(refused, "verdict.json")
    artifact_of(refused, "verdict.json").write_bytes(b"\xff\xfe")
    with pytest.raises(
        ChangedError, match=f"verdict.json or evidence.json of run {refused} is not what evaluate writes"
    ):
        run_register(refused, "tue")
