from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.decision import decide
from tasks.gate.evidence import Champion, Cost, Evidence, Loading, Scores, Slice
from tasks.vision.data.gold import Gold, Split
from tasks.vision.evaluation.comparison import compare
from tasks.vision.evaluation.galleries import TILE_SIDE, TILES
from tasks.vision.evaluation.report import SLICES, plots, render
from tasks.vision.evaluation.scoring import Answers, score
from tasks.vision.evaluation.suspected_labels import Suspect

EVIL = "<script>alert('x')</script>&\"$"
POLICY = GatePolicy()
COST = Cost(p50_ms=1.5, p95_ms=2, memory_mb=100, size_mb=1)
NO_PICTURES: dict[str, bytes] = {}


class Page(HTMLParser):
    """What a browser would make of a page: its tags, where they point, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def make_gold(classes: tuple[str, ...] = ("ant", "bee", "cat"), count: int = 30, side: int = 8) -> Gold:
    labels = np.arange(count, dtype=np.int64) % len(classes)
    images = np.zeros((count, 3, side, side), np.uint8)
    images[:] = np.arange(count, dtype=np.uint8)[:, None, None, None]
    split = Split(images, labels, tuple(f"test/{EVIL}/{i}.png" for i in range(count)))
    return Gold(split, split, split, classes, (0.5,) * 3, (0.2,) * 3, "f" * 64, "pets")


def answers(gold: Gold, wrong: dict[int, float]) -> Answers:
    """Right answers with confidence 0.8, but for the images of `wrong`: the next class, with the confidence given."""
    labels, classes = gold.test.labels, len(gold.classes)
    probabilities = np.full((len(labels), classes), 0.2 / (classes - 1), np.float32)
    probabilities[np.arange(len(labels)), labels] = 0.8
    for index, confidence in wrong.items():
        probabilities[index] = (1 - confidence) / (classes - 1)
        probabilities[index, (labels[index] + 1) % classes] = confidence
    return Answers(probabilities, score(labels, probabilities))


def summary(given: Answers) -> Scores:
    return Scores(accuracy=given.scores.accuracy, macro_f1=given.scores.macro_f1, calibration_error=0.1)


def evidence(gold: Gold, candidate: Answers, champion: Answers | None, **columns: dict[str, float]) -> Evidence:
    slices = [Slice(column="class", value=name, images=10, accuracy=0.9) for name in gold.classes]
    for column, values in columns.items():
        slices += [Slice(column=column, value=v, images=10, accuracy=accuracy) for v, accuracy in values.items()]
    current = None
    if champion is not None:
        labels = gold.test.labels
        found = compare(candidate.predicted == labels, champion.predicted == labels, 0.025, 1)
        current = Champion(version=7, scores=summary(champion), cost=COST, comparison=found)
    return Evidence(
        loading=Loading(works=True, note="loads"),
        scores=summary(candidate),
        cost=COST,
        slices=tuple(slices),
        champion=current,
    )


def page(
    gold: Gold,
    found: Evidence,
    candidate: Answers,
    champion: Answers | None,
    pictures: dict[str, bytes],
    regions: Mapping[int, NDArray[np.float32]] | None = None,
    suspects: Sequence[Suspect] = (),
) -> str:
    verdict = decide(found, POLICY)
    facts = {"data": EVIL}
    return render("Verdict", facts, gold, found, verdict, pictures, candidate, champion, regions or {}, suspects)


def drawn(
    gold: Gold,
    found: Evidence,
    candidate: Answers,
    champion: Answers | None,
    suspects: Sequence[Suspect] = (),
) -> dict[str, bytes]:
    pictures = {}
    for name, figure in plots(gold, found, POLICY, candidate, champion, suspects).items():
        buffer = BytesIO()
        figure.savefig(buffer, dpi=50)
        pictures[name] = buffer.getvalue()
    return pictures


def test_with_a_champion_both_models_are_shown() -> None:
    gold = make_gold()
    candidate, champion = answers(gold, {3: 0.9, 4: 0.6}), answers(gold, {3: 0.7, 5: 0.7, 6: 0.7})
    found = evidence(gold, candidate, champion)
    pictures = drawn(gold, found, candidate, champion)
    assert set(pictures) == {"confusion_matrix", "per_class", "accuracy_gap", "reliability", "confusion_difference"}
    text = Page(page(gold, found, candidate, champion, pictures)).text
    assert "champion, version 7" in text
    assert "+0.0333" in text  # 28 of 30 right against 27
    assert "mistakes: 2 of 30 images" in text
    assert "the champion is right): 1 of 30 images" in text
    for check in decide(found, POLICY).checks:
        assert check.why in text


def test_without_a_champion_there_is_only_what_makes_sense() -> None:
    gold = make_gold()
    candidate = answers(gold, {3: 0.9})
    found = evidence(gold, candidate, None)
    pictures = drawn(gold, found, candidate, None)
    assert set(pictures) == {"confusion_matrix", "per_class", "reliability"}
    shown = Page(page(gold, found, candidate, None, pictures))
    assert "champion," not in shown.text
    assert "Lost" not in shown.text
    assert "difference" not in shown.text
    assert "top-5" not in shown.text
    assert len(shown.addresses) == 3  # two plots, one mistake


def test_names_are_text_and_nothing_is_loaded_from_elsewhere() -> None:
    gold = make_gold((EVIL, "b <img src=x>", "c $\\frac$"))
    candidate, champion = answers(gold, {3: 0.9, 4: 0.8}), answers(gold, {5: 0.7})
    found = evidence(gold, candidate, champion, **{EVIL: {EVIL: 0.5}})
    regions = {3: np.eye(8, dtype=np.float32)}
    suspects = [Suspect("test", 3, gold.test.names[3], 0, 1, 0.01)]
    pictures = drawn(gold, found, candidate, champion, suspects)
    html = page(gold, found, candidate, champion, pictures, regions, suspects)
    shown = Page(html)
    assert "script" not in shown.tags
    assert shown.addresses
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", address) for address in shown.addresses)
    assert shown.text.count(EVIL) > 3
    assert "default-src 'none'" in html


def test_the_surest_mistakes_come_first_and_are_the_very_images() -> None:
    gold = make_gold(count=60)
    candidate = answers(gold, {index: 0.4 + index / 200 for index in range(40)})
    found = evidence(gold, candidate, None)
    shown = Page(page(gold, found, candidate, None, NO_PICTURES))
    assert f"40 of 60 images, these {TILES} with the most confidence" in shown.text
    tiles = [Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))) for address in shown.addresses]
    assert [tile.getpixel((0, 0)) for tile in tiles] == [(index,) * 3 for index in range(39, 39 - TILES, -1)]
    assert "true ant predicted bee, 60%" in " ".join(shown.text.replace("predicted", " predicted").split())


def test_no_mistakes_are_said() -> None:
    gold = make_gold()
    perfect = answers(gold, {})
    text = Page(page(gold, evidence(gold, perfect, perfect), perfect, perfect, NO_PICTURES)).text
    assert "mistakes: none" in text
    assert "the champion is right): none" in text


def test_large_images_are_averaged_down() -> None:
    gold = make_gold(side=3 * TILE_SIDE + 5)
    gold.test.images[0, :, ::3] = 30  # the first row of three; the others are 0
    candidate = answers(gold, {0: 0.9})
    (address,) = Page(page(gold, evidence(gold, candidate, None), candidate, None, NO_PICTURES)).addresses
    tile = Image.open(BytesIO(base64.b64decode(address.partition(",")[2])))
    assert tile.size == (TILE_SIDE + 1, TILE_SIDE + 1)
    assert tile.getpixel((5, 5)) == (10, 10, 10)


def test_missing_evidence_is_said() -> None:
    gold = make_gold()
    candidate = answers(gold, {})
    found = evidence(gold, candidate, None).model_copy(update={"cost": None})
    text = Page(page(gold, found, candidate, None, NO_PICTURES)).text
    assert text.count("not measured") >= 4
    assert "refused" in text


@pytest.mark.parametrize("count", [SLICES, SLICES + 3])
def test_the_worst_slices_come_first(count: int) -> None:
    gold = make_gold()
    candidate = answers(gold, {})
    values = {f"value {index:02d}": 1 - index / 100 for index in range(count)}
    text = Page(page(gold, evidence(gold, candidate, None, camera=values), candidate, None, NO_PICTURES)).text
    shown = re.findall(r"value \d\d", text.partition("the worst first")[2])
    assert shown == [f"value {index:02d}" for index in range(count - 1, count - 1 - SLICES, -1)]
    assert ("3 more in slices.json" in text) is (count > SLICES)


def pictures_of(html: str) -> list[Image.Image]:
    return [Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))) for address in Page(html).addresses]


def test_a_mistake_has_a_copy_with_the_region_that_decided_if_one_did() -> None:
    gold = make_gold()
    candidate = answers(gold, {3: 0.9, 4: 0.8, 5: 0.7})
    corner = np.zeros((8, 8), np.float32)
    corner[:3, :3] = 1
    regions = {3: corner, 4: np.zeros((8, 8), np.float32)}
    html = page(gold, evidence(gold, candidate, None), candidate, None, NO_PICTURES, regions)
    picture, region, *others = pictures_of(html)
    assert picture.getpixel((0, 0)) == (3, 3, 3)
    assert np.ptp(np.asarray(region.getpixel((0, 0)))) > 50  # coloured
    assert region.getpixel((7, 7)) == (3, 3, 3)
    assert [other.getpixel((0, 0)) for other in others] == [(4, 4, 4), (5, 5, 5)]


def test_labels_that_look_wrong_are_shown_with_how_to_correct_them() -> None:
    gold = make_gold(count=60)
    candidate = answers(gold, {})
    suspects = [Suspect("test", index, gold.test.names[index], 0, 1, index / 1000) for index in range(20, 40)]
    html = page(gold, evidence(gold, candidate, None), candidate, None, NO_PICTURES, suspects=suspects)
    text = Page(html).text
    assert f"20 of 60 test images, these {TILES} the most suspicious" in text
    assert "label ant, 2.0%looks like bee" in text
    assert "suspected_labels.csv" in text
    assert "corrections" in text
    assert [picture.getpixel((0, 0)) for picture in pictures_of(html)] == [(i,) * 3 for i in range(20, 20 + TILES)]


def test_without_suspected_labels_the_page_says_so() -> None:
    gold = make_gold()
    candidate = answers(gold, {})
    text = Page(page(gold, evidence(gold, candidate, None), candidate, None, NO_PICTURES)).text
    assert "nowhere sure enough" in text
    assert "corrections" not in text


def test_top_5_accuracy_is_a_row_where_there_are_many_classes() -> None:
    gold = make_gold(tuple(f"class {index:02d}" for index in range(12)), count=36)
    candidate, champion = answers(gold, {}), answers(gold, {0: 0.9})
    found = evidence(gold, candidate, champion)
    assert found.champion is not None
    better = summary(candidate).model_copy(update={"top5_accuracy": 0.75})
    worse = summary(champion).model_copy(update={"top5_accuracy": 0.5})
    found = found.model_copy(update={"scores": better, "champion": found.champion.model_copy(update={"scores": worse})})
    text = Page(page(gold, found, candidate, champion, NO_PICTURES)).text
    assert "top-5 accuracy0.75000.5000+0.2500" in text
