"""What comes from others is pinned: actions by commit, images by the one list, programs by checksum."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.stack_files import FILES
from images.third_party import third_party

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# A file of ours, or a commit with its version beside it.
PINNED_ACTION = re.compile(r"\./\S+|[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
# A download that a shell runs, whatever is set or asked for in front of the shell.
INTO_SHELL = re.compile(r"\b(curl|wget)\b[^\n|]*\|\s*(sudo\s+(-\S+\s+)*|env\s+|\w+=\S*\s+)*(/\S+/)?(ba|da|z)?sh\b")
# Dockerfiles of stand-ins are built where there is no registry.
DOCKERFILES = [*sorted(ROOT.glob("images/**/Dockerfile")), *sorted(ROOT.glob("tests/stack/kubernetes/**/Dockerfile"))]


def tracked() -> list[Path]:
    """Every text that may be run, or that somebody may copy into a terminal."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in listed if not name.endswith((".png", ".lock")) and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").replace("\\\n", "")


def uses(text: str) -> list[str]:
    return re.findall(r"^[\s-]*uses:\s*(.*?)\s*$", text, re.M)


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path.name, name, job) for path in WORKFLOWS for name, job in yaml.safe_load(path.read_text())["jobs"].items()
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit(path: Path) -> None:
    assert [one for one in uses(path.read_text()) if not PINNED_ACTION.fullmatch(one)] == []


def test_an_action_has_one_commit_in_all_workflows() -> None:
    found = {one for path in WORKFLOWS for one in uses(path.read_text()) if not one.startswith("./")}
    assert found
    assert len({one.partition("@")[0] for one in found}) == len(found)


@pytest.mark.parametrize(
    "action",
    ["actions/checkout@v4", "actions/checkout@main", f"actions/checkout@{'0' * 40}", f"a/b@{'0' * 39} # v1.0.0"],
)
def test_an_action_by_tag_branch_or_unnamed_commit_is_found(action: str) -> None:
    [found] = uses(f"    steps:\n      - uses: {action}\n")
    assert not PINNED_ACTION.fullmatch(found)


def test_nothing_downloaded_goes_into_a_shell() -> None:
    assert [str(path.relative_to(ROOT)) for path in tracked() if INTO_SHELL.search(text_of(path))] == []


@pytest.mark.parametrize("shell", ["sh", "sudo bash -s", "INSTALL=v1+k sh -s - --docker", "sudo -E env A=b /bin/sh"])
def test_a_download_into_a_shell_is_found(shell: str) -> None:
    assert INTO_SHELL.search("c" + f"url -sfL https://example.org/install | {shell}")


def images_named() -> dict[str, set[str]]:
    """Images of others that our files name, by file."""
    found: dict[str, set[str]] = {}
    for name in FILES:
        text = (ROOT / name).read_text()
        found[name] = set(re.findall(r"^ +image: \$\{[A-Z0-9_]+_IMAGE:-([^}]+)\}$", text, re.M))
        assert len(re.findall(r"^ +image: ", text, re.M)) == len(
            re.findall(r"^ +image: \$\{([A-Z0-9_]+_IMAGE:-|PIPELINE_IMAGE_PREFIX)", text, re.M)
        ), f"{name}: an image without a variable"
    for path in DOCKERFILES:
        text = path.read_text()
        stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.M | re.I))
        given = set(re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.M))
        bases = {base for base in re.findall(r"^FROM (\S+)", text, re.M) if not base.startswith("$")}
        found[str(path.relative_to(ROOT))] = given | bases - stages
    for path in sorted((ROOT / "deploy/kubernetes").rglob("*.y*ml")):
        named = re.findall(r"^[\s-]*image: (\S+)$", path.read_text(), re.M)
        found[str(path.relative_to(ROOT))] = {name for name in named if not name.startswith("vision-mlops/")}
    for path in WORKFLOWS:
        found[path.name] = set(re.findall(r"\b(?:image|container): (\S+)", path.read_text()))
    return found


def test_every_image_of_others_is_in_the_list() -> None:
    named = images_named()
    assert {name: more for name, found in named.items() if (more := found - third_party().keys())} == {}
    assert set().union(*named.values()) == third_party().keys(), "the list names an image that nothing uses"


def test_the_list_names_the_variable_of_each_image() -> None:
    text = "".join((ROOT / name).read_text() for name in (*FILES, "images/Dockerfile"))
    for image in third_party().values():
        assert f"{image.variable}:-{image.name}}}" in text or f"ARG {image.variable}={image.name}\n" in text


def test_digests_are_digests_and_the_docs_say_which_images_have_none() -> None:
    for image in third_party().values():
        assert re.fullmatch(r"(sha256:[0-9a-f]{64})?", image.digest), image.name
    without = {image.name for image in third_party().values() if not image.digest}
    decision = (ROOT / "docs/decisions/0032-supply-chain.md").read_text()
    [said] = re.findall(r"^By tag: (.+)\.$", decision, re.M)
    assert set(re.findall(r"`([^`]+)`", said)) == without


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_starts_with_the_right_to_read_and_nothing_else(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job or "uses" in job, name


@pytest.mark.parametrize(("file", "name", "job"), jobs(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_job_is_sound(file: str, name: str, job: dict[str, Any]) -> None:
    """Its needs exist, its shell parses, no expression is pasted into a shell, and a checkout keeps no token."""
    known = yaml.safe_load((ROOT / ".github/workflows" / file).read_text())["jobs"]
    needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
    assert set(needs) <= known.keys()
    assert set(re.findall(r"needs\.(\w+)", json.dumps(job))) <= set(needs)
    for step in job.get("steps", ()):
        run = step.get("run", "")
        assert "${{" not in run
        assert subprocess.run(["bash", "-n"], input=run, text=True, capture_output=True).stderr == ""
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}
    if "id-token" in job.get("permissions", {}) and "uses" not in job:
        assert "make " not in json.dumps(job), "what can sign runs no builds and no tests"


def test_a_release_tests_the_images_that_it_pushes() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert release["tests"]["needs"] == "images"
    assert release["release"]["needs"] == ["images", "tests"]
    steps = {name: [step.get("run", "") for step in job.get("steps", ())] for name, job in release.items()}
    text = json.dumps(steps)
    assert [word for word in ("make images", "docker build", "docker push", "images build") if word in text] == []
    [pull, _, run] = release["tests"]["steps"][-3:]
    assert "python3 -m images pull --from" in pull["run"]
    assert run == {"run": ".ci/run", "env": run["env"]}
    assert run["env"]["PIPELINE_IMAGES_GIVEN"] == "1"
    last = "\n".join(steps["release"])
    assert last.index('cosign" sign') < last.index("images promote") < last.index("gh release create")
    digests = "${{ needs.images.outputs.digests }}"
    assert pull["env"]["PIPELINE_IMAGE_DIGESTS"] == release["release"]["env"]["PIPELINE_IMAGE_DIGESTS"] == digests


def fetch(tmp_path: Path, content: bytes, pinned: bytes) -> subprocess.CompletedProcess[str]:
    """Run a copy of .ci/fetch for k3s that pins one file, while the network has another."""
    script = (ROOT / ".ci/fetch").read_text()
    (tmp_path / "content").write_bytes(content)
    (tmp_path / "fetch").write_text(
        re.sub(r"(k3s\) sha256=)\w{64}", rf"\g<1>{hashlib.sha256(pinned).hexdigest()}", script)
    )
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text(f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done\ncp {tmp_path}/content "$2"\n')
    curl.chmod(0o755)
    (tmp_path / "out").mkdir()
    environment = os.environ | {"PATH": f"{curl.parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(tmp_path / "fetch"), "k3s", str(tmp_path / "out")]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_program_with_the_right_checksum_is_installed(tmp_path: Path) -> None:
    done = fetch(tmp_path, b"program", b"program")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(tmp_path / "out" / "k3s", os.X_OK)


def test_a_program_with_another_checksum_is_refused(tmp_path: Path) -> None:
    done = fetch(tmp_path, b"another", b"program")
    assert done.returncode == 65
    assert f"is not what was pinned: {hashlib.sha256(b'another').hexdigest()}" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
