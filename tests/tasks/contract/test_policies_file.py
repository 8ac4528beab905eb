"""The file with the administrators' rules: what it may hold, and that no mistake in it means no rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.__main__ import for_people
from tasks.contract.policies_file import LIMIT, for_stage, load_policies, parse_policies, rules_for
from tasks.errors import SettingsError
from tasks.settings import Settings, load_settings

FILE = """
models:
  "*":
    gate: {min_accuracy: 0.5}
  pets:
    gate: {min_accuracy: 0.9, max_latency_ms: 20}
    approval: {by: [ann, bob]}
resources:
  all: {cpus: 8, memory: 32g, gpus: 0}
  train: {gpus: 1, gpu_kind: [nvidia.com/gpu], node_selector: {pool: [gpu]}, tolerations: [{key: gpu}]}
"""
HOW_TO = Path(__file__).resolve().parents[3] / "docs/how-to/policies.md"


def test_without_the_variable_there_are_no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_POLICIES", "")
    assert load_policies(load_settings()) is None
    assert rules_for("pets", load_settings()) is None


def test_a_stage_in_a_container_is_told_the_same_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(FILE)
    policies = load_policies(Settings(pipeline_policies=str(file)))
    assert policies is not None
    line = for_stage(policies)
    assert "\n" not in line
    told = load_policies(Settings(pipeline_policies=line))
    assert told == policies
    rules = rules_for("pets", Settings(pipeline_policies=line))
    assert rules is not None
    assert dict(rules.floors) == {"min_accuracy": 0.9, "max_latency_ms": 20}
    assert rules.source == "policies.yaml (*, pets)"
    assert told.ceilings_for("train").gpus == 1


def test_a_change_of_the_file_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    for floor in (0.5, 0.9):
        file.write_text(f"models: {{pets: {{gate: {{min_accuracy: {floor}}}}}}}")
        rules = rules_for("pets", Settings(pipeline_policies=str(file)))
        assert rules is not None
        assert rules.floors == {"min_accuracy": floor}


PETS = "models:\n  pets:\n    "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write the keys models and resources; this is NoneType, no rules"),
        ("# models: {}", "no rules"),
        ("- models", "this is list"),
        ("models: {}", "line 1: no rules: write models or resources, or unset PIPELINE_POLICIES"),
        ("models:", "line 1: 'models' has no value"),
        ("\nmodels: [", "line 2: not YAML"),
        ("{models: {}", "line 1: not YAML"),
        ("\n\tmodels: {}", "line 2: not YAML"),
        ("models: !!python/object:os.system {}", "line 1: not YAML: could not determine a constructor"),
        ("modles: {}", "line 1: modles: unknown key; did you mean 'models'?"),
        ("models:\n  pets?: {gate: {min_gain: 1}}", "line 2: models.pets?: neither the name of a registered model nor"),
        ("models:\n  pets: {}", "line 2: models.pets: no rules: give a floor in gate, or approval"),
        (f"{PETS}gates: {{min_accuracy: 0.5}}", "line 3: models.pets.gates: unknown key; did you mean 'gate'?"),
        (f"{PETS}gate:\n      min_acuracy: 1", "line 4: models.pets.gate.min_acuracy: unknown key; did you mean"),
        (f"{PETS}gate:\n      min_accuracy: high", "line 4: models.pets.gate.min_accuracy='high': Input should be"),
        (f"{PETS}gate:\n      min_accuracy: yes", "line 4: models.pets.gate.min_accuracy=True: Input should be"),
        (f"{PETS}gate:\n      min_accuracy: '0.9'", "line 4: models.pets.gate.min_accuracy='0.9': Input should be"),
        (f"{PETS}gate:\n      min_accuracy: 1.5", "line 4: models.pets.gate.min_accuracy=1.5: "),
        (f"{PETS}gate:\n      min_accuracy: .nan", "line 4: models.pets.gate.min_accuracy=nan: "),
        (f"{PETS}gate:\n      max_latency_ms:", "line 4: 'max_latency_ms' has no value; give it one, or remove it"),
        (f"{PETS}gate:\n      proof: any", "line 4: models.pets.gate.proof='any': "),
        (f"{PETS}gate: {{min_gain: 0}}\n  pets: {{}}", "line 4: key 'pets' is also in line 2; remove one of them"),
        (f"{PETS}approval: yes", "line 3: models.pets.approval=True: "),
        (f"{PETS}approval: {{by: ann}}", "line 3: models.pets.approval.by='ann': "),
        (f"{PETS}approval: {{by: []}}", "line 3: models.pets.approval.by=[]: "),
        (f"{PETS}approval: {{by: [007]}}", "line 3: models.pets.approval.by.0=7: "),
        (f"{PETS}approval: {{required: 1}}", "line 3: models.pets.approval.required=1: "),
        ("resources: {trian: {gpus: 1}}", "line 1: resources: stage 'trian' is unknown; choose from all, prepare"),
        ("resources:\n  train:\n    memory: 8 GB", "line 3: resources.train.memory='8 GB': "),
        ("resources:\n  train:\n    gpu: 1", "line 3: resources.train.gpu: unknown key; did you mean 'gpus'?"),
        ("resources:\n  train:\n    gpus: -1", "line 3: resources.train.gpus=-1: "),
        ("resources:\n  train:\n    gpu_kind: nvidia.com/gpu", "line 3: resources.train.gpu_kind='nvidia.com/gpu': "),
        ("# " + "x" * LIMIT, f"the limit is {LIMIT}"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_never_means_no_rules(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as wrong:
        load_policies(Settings(pipeline_policies=str(file)))
    assert words in str(wrong.value)
    assert str(wrong.value).startswith(str(file))
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("text", ['{"models": {}}', "{models", '{"models": {"pets": {"gate": {"min_accuracy": 2}}}}'])
def test_a_mistake_in_the_variable_itself_is_its_mistake(text: str) -> None:
    with pytest.raises(SettingsError, match="PIPELINE_POLICIES, line 1"):
        load_policies(Settings(pipeline_policies=text))


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"\xff\xfe", "it is not UTF-8")])
def test_a_file_that_cannot_be_read_is_not_the_absence_of_one(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "policies.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"PIPELINE_POLICIES='{re.escape(str(file))}' cannot be read .{why}"):
        load_policies(Settings(pipeline_policies=str(file)))


def test_the_example_of_the_how_to_is_a_file_of_rules() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", HOW_TO.read_text(), re.S)
    policies = parse_policies(example, "policies.yaml")
    rules = policies.rules_for("vision-classifier")
    assert rules is not None
    assert rules.approval_required
    assert rules.floors["min_accuracy"] == 0.9
    assert rules.text in HOW_TO.read_text()
    assert policies.ceilings_for("train").gpus == 1


def test_the_command_prints_what_a_cluster_takes_and_names_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policies.yaml"
    command = for_people()["policies"]
    file.write_text(FILE)
    command.main([str(file)], standalone_mode=False)
    assert parse_policies(capsys.readouterr().out, "PIPELINE_POLICIES") == parse_policies(FILE, str(file))
    file.write_text("modles: {}")
    with pytest.raises(SettingsError, match="did you mean 'models'"):
        command.main([str(file)], standalone_mode=False)
