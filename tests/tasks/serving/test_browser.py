"""The pages in a real browser: against the service, and against a stand-in that answers what a test wants."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import uvicorn
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tasks.serving.pages import Pages
from tests.chromium import chromium, window
from tests.tasks.serving.samples import CLASSES, Service, Store, free_port, picture
from tests.waiting import until

NASTY = "<img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
FILE = """([name, type, data]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type }));
  return transfer;
}"""
PASTE = """(transfer) => document.body.dispatchEvent(
  new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }))"""


@dataclass
class Tab:
    """A page, what it asked for, and what its console said."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def transfer(self, data: bytes, name: str, kind: str) -> Any:
        return self.page.evaluate_handle(FILE, [name, kind, base64.b64encode(data).decode()])

    def drop(self, data: bytes, name: str = "x.png", kind: str = "image/png") -> None:
        self.page.dispatch_event("#drop", "drop", {"dataTransfer": self.transfer(data, name, kind)})

    def bars(self) -> list[str]:
        return self.page.locator("#bars .name").all_inner_texts()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with window(browser, locale="en-US") as opened:
        page = opened.new_page()
        tab = Tab(page)
        page.on("request", lambda request: tab.requests.append(request.url))
        page.on("console", lambda message: tab.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: tab.errors.append(str(error)))
        yield tab


@dataclass
class StandIn:
    """Answers like the service, with the classes, the key and the error that a test sets."""

    url: str = ""
    classes: list[str] = field(default_factory=lambda: list(CLASSES))
    loaded: bool = True
    key: str | None = None
    received: list[tuple[str, bytes]] = field(default_factory=list)

    async def info(self, request: Request) -> JSONResponse:
        if refusal := self.refusal(request):
            return refusal
        about = {"registered_model": "vision-classifier", "follows": "champion", "architecture": "tiny"}
        if not self.loaded:
            none = dict.fromkeys(("model_version", "run_id", "classes", "input", "loaded_at"))
            return JSONResponse({**about, **none, "problem": "nothing is champion"})
        model = {"model_version": 4, "run_id": "8d1f", "classes": self.classes, "input": [3, 8, 8], "loaded_at": 1.0}
        return JSONResponse({**about, **model, "problem": None})

    async def predict(self, request: Request) -> JSONResponse:
        if refusal := self.refusal(request):
            return refusal
        if not self.loaded:
            return JSONResponse({"error": "no model is loaded yet; try later"}, 503)
        self.received.append((request.headers["content-type"], await request.body()))
        total = len(self.classes) * (len(self.classes) + 1) / 2
        probabilities = {name: (number + 1) / total for number, name in enumerate(self.classes)}
        answer = {"class": self.classes[-1], "probabilities": probabilities, "model_version": 4, "run_id": "8d1f"}
        return JSONResponse(answer)

    def refusal(self, request: Request) -> JSONResponse | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": "the key is missing or wrong"}, 401)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    told = StandIn()
    routes = [
        Route("/get_model_info", told.info, methods=["POST"]),
        Route("/predict_image", told.predict, methods=["POST"]),
    ]
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Pages(Starlette(routes=routes)), port=port, log_config=None))
    told.url = f"http://127.0.0.1:{port}"
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield told
    server.should_exit = True
    thread.join(600)


def test_a_dropped_image_is_answered_by_the_real_service(tab: Tab, service: Service, store: Store) -> None:
    tab.page.goto(service.url)
    expect(tab.page.locator("#model")).to_contain_text(store.run_ids[0])
    tab.drop(picture(255))
    expect(tab.page.locator("#status")).to_contain_text("bright, ")
    assert tab.bars() == ["bright", "grey", "dark"]
    expect(tab.page.locator("#origin")).to_contain_text(f"Model version1Run ID{store.run_ids[0]}")
    assert tab.page.locator("#label-list li").all_inner_texts() == CLASSES
    assert tab.errors == []
    assert all(url.startswith((f"{service.url}/", f"blob:{service.url}/", "data:")) for url in tab.requests)


def test_a_text_file_shows_the_line_of_the_real_service(tab: Tab, service: Service) -> None:
    data = b"hello, I am no image"
    headers = {"Content-Type": "application/octet-stream"}
    line = requests.post(f"{service.url}/predict_image", data=data, headers=headers, timeout=120).json()["error"]
    tab.page.goto(service.url)
    tab.drop(data, "notes.txt", "text/plain")
    expect(tab.page.locator("#error")).to_have_text(line)
    expect(tab.page.locator("#answer")).to_be_hidden()


def test_a_file_over_the_limit_shows_the_line_of_the_real_service(tab: Tab, service: Service) -> None:
    tab.page.goto(service.url)
    tab.drop(picture(0) + b"\0" * 3 * 2**20)
    expect(tab.page.locator("#error")).to_contain_text("larger than 2 MiB")


def test_swagger_describes_and_calls_the_real_service(tab: Tab, service: Service) -> None:
    page = tab.page
    page.goto(f"{service.url}/docs")
    page.locator("#operations-predictions-predict_image").click()
    page.get_by_role("button", name="Try it out").click()
    upload = {"name": "x.png", "mimeType": "image/png", "buffer": picture(255)}
    page.locator("input[type=file]").set_input_files([upload])
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table td.response-col_description pre").first).to_contain_text(
        '"class": "bright"'
    )
    assert tab.errors == []
    assert all(url.startswith((f"{service.url}/", "data:")) for url in tab.requests)


def by_drop(tab: Tab, data: bytes) -> None:
    tab.drop(data)


def by_choice(tab: Tab, data: bytes) -> None:
    upload = {"name": "x.png", "mimeType": "image/png", "buffer": data}
    tab.page.get_by_label("choose a file").set_input_files([upload])


def by_paste(tab: Tab, data: bytes) -> None:
    tab.page.evaluate(PASTE, tab.transfer(data, "image.png", "image/png"))


@pytest.mark.parametrize("send", [by_drop, by_choice, by_paste])
def test_each_way_sends_the_file_itself(tab: Tab, stand_in: StandIn, send: Callable[[Tab, bytes], None]) -> None:
    tab.page.goto(stand_in.url)
    send(tab, picture(7))
    expect(tab.page.locator("#status")).to_have_text("bright, 50.0 %")
    assert stand_in.received == [("image/png", picture(7))]
    expect(tab.page.locator("#picture")).to_be_visible()
    assert tab.page.locator("#picture").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 8
    widths = tab.page.locator("#bars .bar").evaluate_all("(all) => all.map((one) => parseFloat(one.style.width))")
    assert widths == pytest.approx([50, 100 / 3, 50 / 3], abs=1e-3)
    assert tab.errors == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json"])
def test_what_the_browser_takes_for_no_image_goes_as_bytes(tab: Tab, stand_in: StandIn, kind: str) -> None:
    tab.page.goto(stand_in.url)
    tab.drop(picture(7), "photo.heic", kind)
    expect(tab.page.locator("#status")).to_contain_text("bright")
    assert stand_in.received == [("application/octet-stream", picture(7))]


def test_of_many_classes_ten_are_shown_and_all_on_request(tab: Tab, stand_in: StandIn) -> None:
    stand_in.classes = [f"class {number}" for number in range(1000)]
    tab.page.goto(stand_in.url)
    tab.drop(picture(0))
    expect(tab.page.locator("#bars li")).to_have_count(10)
    assert tab.bars()[:2] == ["class 999", "class 998"]
    tab.page.get_by_role("button", name="Show all 1,000").click()
    expect(tab.page.locator("#bars li")).to_have_count(1000)
    tab.page.get_by_role("button", name="Show the first 10").press("Enter")
    expect(tab.page.locator("#bars li")).to_have_count(10)
    expect(tab.page.locator("#label-list")).to_be_hidden()
    tab.page.get_by_text("The 1,000 labels it knows").click()
    expect(tab.page.locator("#label-list li")).to_have_count(1000)
    expect(tab.page.locator("#label-list")).to_be_visible()


def test_a_class_name_stays_text(tab: Tab, stand_in: StandIn) -> None:
    stand_in.classes = ["a", NASTY]
    tab.page.goto(stand_in.url)
    tab.drop(picture(0), f"{NASTY}.png")
    expect(tab.page.locator("#status")).to_have_text(f"{NASTY}, 66.7 %")
    assert tab.bars() == [NASTY, "a"]
    assert tab.page.title() == "Classify an image"
    assert tab.page.locator("main b").count() == 0
    assert tab.errors == []


def test_a_key_is_asked_for_kept_in_the_tab_and_sent(tab: Tab, stand_in: StandIn) -> None:
    stand_in.key = "s3cret"
    page = tab.page
    page.goto(stand_in.url)
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    expect(page.locator("#problem")).to_have_text("the key is missing or wrong")
    tab.drop(picture(0))
    expect(page.locator("#error")).to_have_text("the key is missing or wrong")
    key.fill("🔑")  # cannot be sent in a header: the browser asks for another one
    key.press("Enter")
    expect(key).to_have_value("🔑")
    key.fill("wrong")
    key.press("Enter")
    expect(key).to_have_value("")
    expect(key).to_be_visible()
    key.fill("s3cret")
    key.press("Enter")
    expect(page.locator("#status")).to_contain_text("bright")  # the image is sent again
    expect(page.locator("#model")).to_contain_text("8d1f")
    expect(key).to_be_hidden()
    page.reload()
    expect(page.locator("#model")).to_contain_text("8d1f")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_without_a_model_it_says_so_and_later_shows_the_model(tab: Tab, stand_in: StandIn) -> None:
    stand_in.loaded = False
    tab.page.goto(stand_in.url)
    expect(tab.page.locator("#problem")).to_have_text("No model is loaded yet: nothing is champion")
    tab.drop(picture(0))
    expect(tab.page.locator("#error")).to_have_text("no model is loaded yet; try later")
    stand_in.loaded = True
    tab.drop(picture(0))
    expect(tab.page.locator("#status")).to_contain_text("bright")
    expect(tab.page.locator("#error")).to_be_hidden()
    expect(tab.page.locator("#problem")).to_be_hidden()
    expect(tab.page.locator("#model")).to_contain_text("8d1f")


def test_a_service_that_is_gone_is_named(tab: Tab, stand_in: StandIn) -> None:
    tab.page.goto(stand_in.url)
    expect(tab.page.locator("#model")).to_contain_text("8d1f")
    tab.page.context.set_offline(True)
    tab.drop(picture(0))
    expect(tab.page.locator("#error")).to_contain_text("The service cannot be reached")
    tab.page.context.set_offline(False)


def test_it_fits_a_phone(tab: Tab, stand_in: StandIn) -> None:
    stand_in.classes = ["short", "averyverylongclassname" * 8]
    tab.page.set_viewport_size({"width": 360, "height": 700})
    tab.page.goto(stand_in.url)
    tab.drop(picture(0, 2000))
    expect(tab.page.locator("#status")).to_contain_text("averyvery")
    expect(tab.page.locator("#model")).to_contain_text("8d1f")
    over = """() => [...document.querySelectorAll("body *")].filter((one) =>
      one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".hidden")).map((one) => one.outerHTML)"""
    assert tab.page.evaluate(over) == []
