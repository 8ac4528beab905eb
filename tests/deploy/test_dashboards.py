"""Grafana's files, as far as they can be checked without Grafana: what it reads at its start, and the dashboards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "monitoring" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
GLOBALS = {"__rate_interval"}
over_dashboards = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@over_dashboards
def test_every_panel_asks_the_data_source_that_is_set_up(path: Path) -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    board = load(path)
    for panel in board["panels"]:
        assert panel["datasource"] == expected, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == expected
            assert target["expr"].strip()
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    for variable in board["templating"]["list"]:
        assert variable["datasource"] == expected


@over_dashboards
def test_panels_have_numbers_of_their_own_and_do_not_lie_over_each_other(path: Path) -> None:
    panels = load(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


@over_dashboards
def test_every_variable_that_is_used_exists(path: Path) -> None:
    board = load(path)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([panel["targets"] for panel in board["panels"]])))
    assert used <= GLOBALS | {variable["name"] for variable in board["templating"]["list"]}


def test_names_and_titles_are_unique() -> None:
    boards = [load(path) for path in DASHBOARDS]
    assert [board["uid"] for board in boards] == [path.stem for path in DASHBOARDS]
    assert len({board["title"] for board in boards}) == len(boards) >= 3


def test_grafana_is_pointed_at_these_files_and_lets_nobody_in_unasked() -> None:
    grafana = yaml.safe_load((ROOT / "docker-compose-monitoring.yml").read_text())["services"]["grafana"]
    folders = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    assert folders["./deploy/monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/files.yml").read_text())["providers"]
    assert provider["options"]["path"] == folders["./deploy/monitoring/grafana/dashboards"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).name).is_file()
    assert Path(home).parent == Path(provider["options"]["path"])
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert grafana["environment"]["GF_USERS_ALLOW_SIGN_UP"] == "false"
