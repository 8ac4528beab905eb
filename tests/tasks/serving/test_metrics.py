"""What the service tells Prometheus, read as Prometheus reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tasks.serving.metrics import BUCKETS, PredictionCounter, describe
from tasks.serving.model import ServedModel
from tasks.serving.model_reference import Target
from tests.tasks.serving.samples import CLASSES, MODEL, Service, Store, picture
from tests.waiting import until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def matching(found: Samples, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
    return {has: value for (of, has), value in found.items() if of == name and labels.items() <= dict(has).items()}


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(matching(found, name, **labels).values())


def scraped(service: Service) -> Samples:
    return samples(requests.get(f"{service.url}/metrics", timeout=120).text)


def model(version: int | None = 3, classes: tuple[str, ...] = ("cat", "dog")) -> ServedModel:
    target = Target("models:/m/3", "m" if version else None, version, "abc")
    return ServedModel(
        target, classes, (3, 32, 32), {"architecture": "fast_cnn"}, lambda x: np.zeros(1, np.float32), loaded_at=5.0
    )


def test_describes_the_model_in_service() -> None:
    found = samples(describe(model(), None))
    [labels] = matching(found, "serving_model_info")
    assert dict(labels) == {"registered_model": "m", "model_version": "3", "run_id": "abc", "architecture": "fast_cnn"}
    assert total(found, "serving_model_info") == 1
    assert total(found, "serving_model_loaded_timestamp_seconds") == 5
    assert total(found, "serving_model_problem") == 0


def test_without_a_model_there_is_no_info_and_perhaps_a_problem() -> None:
    assert samples(describe(None, "MLflow is away")) == {("serving_model_problem", frozenset()): 1}


def test_a_model_that_is_not_registered_has_no_version() -> None:
    [labels] = matching(samples(describe(model(version=None), None)), "serving_model_info")
    assert dict(labels) | {"registered_model": "", "model_version": ""} == dict(labels)


def test_counts_answers_by_class_from_zero_on() -> None:
    registry = CollectorRegistry()
    counter = PredictionCounter(registry)
    counter.expect(model())
    read = lambda name: registry.get_sample_value("serving_predictions_total", {"model_version": "3", "class": name})  # noqa: E731
    assert (read("cat"), read("dog")) == (0, 0)
    counter.add(model(), ["dog", "dog", "cat"])
    assert (read("cat"), read("dog")) == (1, 2)


def test_buckets_lie_close_around_the_promised_50_ms() -> None:
    assert 0.05 in BUCKETS
    assert sorted(BUCKETS) == list(BUCKETS)
    assert sum(0.02 <= bound <= 0.1 for bound in BUCKETS) >= 6


def test_requests_are_counted_and_timed_under_our_name(service: Service) -> None:
    before = scraped(service)
    service.post("predict_image", files={"image": picture(0)})
    service.post("predict_image", files={"image": picture(255)})
    service.post("predict_image", files={"image": b"no picture"})
    after = scraped(service)

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert more("serving_request_total", endpoint="/predict_image", http_response_code="200") == 2
    assert more("serving_request_total", endpoint="/predict_image", http_response_code="400") == 1
    assert more("serving_request_duration_seconds_count", endpoint="/predict_image") == 3
    bounds = {dict(labels)["le"] for labels in matching(after, "serving_request_duration_seconds_bucket")}
    assert {float(bound) for bound in bounds} == {*BUCKETS, float("inf")}
    assert {name for name, _ in after if not name.startswith("serving_")} == set()


def test_images_of_a_batch_are_counted_each(service: Service) -> None:
    before = total(scraped(service), "serving_predictions_total", **{"class": "bright", "model_version": "1"})
    service.post("predict_batch", files=[("images", ("x.png", picture(255)))] * 3)
    after = total(scraped(service), "serving_predictions_total", **{"class": "bright", "model_version": "1"})
    assert after - before == 3


def test_requests_that_share_a_pass_are_counted_each_and_their_pass_once(service: Service) -> None:
    before = scraped(service)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: service.post("predict_image", files={"image": picture(255)}), range(24))
        assert {answer.status_code for answer in answers} == {200}
    service.post("predict_batch", files=[("images", ("x.png", picture(0)))] * 40)
    after = scraped(service)

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert more("serving_predictions_total", **{"class": "bright"}) == 24
    assert more("serving_predictions_total", **{"class": "dark"}) == 40
    assert more("serving_request_total", endpoint="/predict_image", http_response_code="200") == 24
    assert more("serving_pass_images_sum") == 64  # every image went through the model once
    assert 3 <= more("serving_pass_images_count") <= 26  # 40 take two passes, 24 between one and 24


def test_after_a_swap_the_info_is_the_new_models_only_and_its_classes_start_at_zero(
    service: Service, store: Store
) -> None:
    old = total(scraped(service), "serving_predictions_total", model_version="1")
    store.promote(2)
    until(lambda: service.info().get("model_version") == 2)
    found = scraped(service)
    [labels] = matching(found, "serving_model_info")
    assert dict(labels)["model_version"] == "2"
    assert dict(labels)["run_id"] == store.run_ids[1]
    assert dict(labels)["registered_model"] == MODEL
    new = matching(found, "serving_predictions_total", model_version="2")
    assert {dict(labels)["class"] for labels in new} == set(CLASSES)
    service.post("predict_image", files={"image": picture(0)})
    found = scraped(service)
    assert total(found, "serving_predictions_total", model_version="1") == old
    assert total(found, "serving_predictions_total", model_version="2") == sum(new.values()) + 1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_unknown_paths_are_refused_and_leave_no_trace(service: Service, method: str) -> None:
    for number in range(20):
        answer = requests.request(method, f"{service.url}/{method}-{number}/wp-login.php", timeout=120)
        assert answer.status_code == 404
        assert set(answer.json()) == {"error"}
    assert not [labels for _, labels in scraped(service) if "wp-login" in str(labels)]
    assert requests.get(f"{service.url}/docs.json", timeout=120).ok
