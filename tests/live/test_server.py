"""The page's server answers who may ask, and nothing else; a browser shows rows written after it was opened."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.resources import files

import pytest
from browser import Browser
from click.testing import CliRunner
from row_builders import batches, schemas
from starlette.testclient import TestClient

from tsostream.cli.app import tsostream
from tsostream.live import server as server_module
from tsostream.live.server import ASSETS, Access, is_loopback, make_app
from tsostream.live.store import Store
from tsostream.sinks import Output

TOKEN = "a-long-secret"


def start(out, rows=50):
    output = Output.create(out, *schemas(first_integration=1, last_integration=rows, target="STAR"))
    output.start()
    return output


def client(out, access=None, base="http://127.0.0.1:8337"):
    return TestClient(make_app(Store(out), access or Access()), base_url=base, follow_redirects=False)


def wait_for(ask, seconds=90.0):
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer


def test_answers(out):
    output = start(out)
    output.commit(*batches(1, 30))
    with client(out) as page:
        status = wait_for(lambda: (found := page.get("/api/status").json())["rows"] == 30 and found)
        assert (status["state"], status["total"], status["target"]) == ("growing", 50, "STAR")
        series = page.get("/api/series", params={"points": 10}).json()
        assert (series["rows"], len(series["x"]), series["raw"]) == (30, 10, False)
        picture = page.get("/api/picture").json()
        assert (picture["columns"], len(picture["x"]), len(picture["edges"])) == (30, 30, 17)
        output.commit(*batches(31, 20))
        output.finish("complete")
        assert wait_for(lambda: page.get("/api/status").json()["state"] == "complete")
        assert page.get("/api/series", params={"key": "1,0"}).json()["rows"] == 50
        assert page.get("/api/series", params={"key": "7,7"}).json() == {"rows": 0}
        assert page.get("/api/picture", params={"key": "7,7"}).json() == {"columns": 0}
        assert page.get("/api/series", params={"points": "many"}).status_code == 400
        assert len(page.get("/api/series", params={"points": 10**9}).json()["x"]) == 50


def test_before_there_is_anything(out):
    with client(out) as page:
        assert page.get("/api/status").json()["state"] == "waiting"
        assert page.get("/api/series").json() == {"rows": 0}
        assert page.get("/api/picture").json() == {"columns": 0}


def test_nothing_but_the_page_is_served(out):
    with client(out) as page:
        for path in ASSETS:
            assert page.get(path).status_code == 200, path
            assert page.post(path).status_code == 405
        for path in (
            "/lc.arrow",
            "/page.html",
            "/../pyproject.toml",
            "/%2e%2e/server.py",
            "/docs",
            "/openapi.json",
        ):
            assert page.get(path).status_code == 404, path
        headers = page.get("/").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8337", True), ("localhost:8337", True), ("[::1]:8337", True), ("LOCALHOST", True),
        ("evil.example", False), ("127.0.0.1.evil.example:8337", False), ("", False), ("[::1", False),
        ("192.168.0.7:8337", False), ("127.0.0.1@evil.example", False),
    ],
)  # fmt: skip
def test_host_header(out, host, known):
    """Another page in the same browser may point its own name at our address (DNS rebinding)."""
    with client(out) as page:
        answer = page.get("/api/status", headers={"host": host})
        assert answer.status_code == (200 if known else 421)


def test_token(out):
    access = Access("192.168.0.7", TOKEN)
    with client(out, access, "http://192.168.0.7:8337") as page:
        for path in (*ASSETS, "/api/status", "/events"):
            assert page.get(path).status_code == 401
        assert page.get("/?token=wrong-secret").status_code == 401
        assert page.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        answer = page.get("/", params={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=lax" in answer.headers["set-cookie"]
        assert page.get("/").status_code == 200
        refused = page.get("/", headers={"host": "my.machine:8337"})
        assert refused.status_code == 421
        assert "open http://192.168.0.7:8337/" in refused.text
    anywhere = Access("0.0.0.0", TOKEN)
    assert anywhere.knows_host("my.machine:8337")
    assert not Access("0.0.0.0", None).knows_host("my.machine:8337")


def test_questions_are_answered_between_two_looks(out, monkeypatch):
    """Only news wait; who moves through a run by hand does not."""

    class Asleep:
        def __init__(self, least):
            pass

        def rest(self, *, waiting):
            return 3600.0

    monkeypatch.setattr(server_module, "Pace", Asleep)
    output = start(out)
    output.commit(*batches(1, 50))
    output.finish("complete")
    with client(out) as page:
        wait_for(lambda: page.get("/api/status").json()["state"] == "complete")
        begin, end = page.get("/api/series").json()["span"]
        for part in range(0, 90, 3):  # the looks are an hour apart now
            left = begin + (end - begin) * part / 100
            asked = {"from": left, "to": left + (end - begin) / 10, "points": 10}
            assert page.get("/api/series", params=asked).json()["rows"] > 0
            assert page.get("/api/picture", params=asked).status_code == 200


def test_pages_are_told_once_of_what_a_look_has_found(out, monkeypatch):
    """However many batches it was: each telling makes every page ask again."""
    output = start(out)
    output.commit(*batches(1, 1))
    monkeypatch.setattr(server_module, "_LOOK", 3600.0)
    looks = []

    class OneMore:
        def __init__(self, least):
            pass

        def rest(self, *, waiting):
            if not looks:
                for number in range(2, 42):
                    output.commit(*batches(number, 1))
            looks.append(len(looks))
            return 0.0 if len(looks) == 1 else 3600.0

    monkeypatch.setattr(server_module, "Pace", OneMore)

    told = []
    monkeypatch.setattr(asyncio.Event, "set", lambda self: told.append(page.status()["rows"]))

    async def follow():
        task = asyncio.create_task(page.follow())
        while len(looks) < 2:
            await asyncio.sleep(0.01)
        task.cancel()

    page = server_module._Page(Store(out))
    asyncio.run(asyncio.wait_for(follow(), 120))
    assert told == [1, 41]
    output.finish("complete")


def test_loopback_is_told_from_the_rest():
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.7", "example.org", "")))


def test_refusals_of_the_command(out, tmp_path, monkeypatch):
    monkeypatch.delenv("TSOSTREAM_TOKEN", raising=False)

    def said(*given):
        result = CliRunner().invoke(tsostream, ["live", *map(str, given)])
        assert result.exit_code == 2, result.output
        return result.stderr

    assert "there is no token" in said(out, "--host", "0.0.0.0")
    assert "too short" in said(out, "--host", "0.0.0.0", "--token", "short")
    (tmp_path / "text").write_text("this is no Arrow file, and long enough to tell\n")
    assert "is not an Arrow file" in said(tmp_path / "text")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen" in said(out, "--port", taken.getsockname()[1])


def test_the_page_needs_nothing_from_elsewhere():
    """No address of another server in what we wrote; the library's licence is shipped with it."""
    for name in ("page.html", "page.css", "page.js", "view.js"):
        assert "http" not in files("tsostream.live").joinpath("page", name).read_text(), name
    assert "MIT" in files("tsostream.live").joinpath("page", "uPlot.LICENSE").read_text()


@pytest.fixture
def served(out, monkeypatch, request):
    """The command in a process of its own; the address it says."""
    if token := getattr(request, "param", None):
        monkeypatch.setenv("TSOSTREAM_TOKEN", token)
    process = subprocess.Popen(
        [sys.executable, "-m", "tsostream", "live", str(out), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.wait(timeout=90)


def test_events_tell_new_rows(out, served):
    address, process = served
    with urllib.request.urlopen(f"{address}events", timeout=120) as stream:
        news = (json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
        assert next(news)["state"] == "waiting"
        output = start(out)
        output.commit(*batches(1, 30))
        assert next(one for one in news if one["rows"])["rows"] == 30
        output.finish("complete")
        assert next(one for one in news if one["state"] == "complete")["rows"] == 30
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}lc.arrow", timeout=120)
    process.send_signal(2)
    assert process.wait(timeout=90) == 0


@pytest.mark.skipif(not Browser.available(), reason="no chromium and chromedriver here")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(out, served, width):
    address, _ = served
    browser = Browser(width=width)
    try:
        browser.open(address)
        browser.until("return status && status.state === 'waiting'")
        output = start(out, 4000)
        for first in range(1, 3001, 250):
            output.commit(*batches(first, 250))
        browser.until("return series && series.rows === 3000 && picture && picture.columns > 100")
        assert "3000 / 4000" in browser.run("return document.getElementById('facts').textContent")
        # rows written while it is looked at
        output.commit(*batches(3001, 500))
        browser.until("return series.rows === 3500")
        # something is drawn in every chart
        blank = (
            "return [...document.querySelectorAll('section:not([hidden]) canvas')]"
            ".filter(c => c.width > 130 && !c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v))"
            ".length"
        )
        assert browser.run(blank) == 0
        # nothing stands out of a narrow screen
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        # of a part of the run the server is asked for that part only
        _zoom(browser, narrow=width < 700)
        browser.until("return viewOf.range !== null && series.rows < 1500")
        before = browser.run("return [viewOf.range.min, viewOf.range.max]")
        # a zoomed view stays where it is while rows come
        output.commit(*batches(3501, 500))
        output.finish("complete")
        browser.until("return status.state === 'complete' && status.rows === 4000")
        assert browser.run("return [viewOf.range.min, viewOf.range.max]") == before
        browser.run("document.getElementById('all').click()")
        browser.until("return series.rows === 4000")
        browser.run("document.getElementById('residual').click()")
        browser.until("return !asking")
        assert [text for text in browser.complaints() if "favicon" not in text] == []
    finally:
        browser.close()


@pytest.mark.skipif(not Browser.available(), reason="no chromium and chromedriver here")
def test_fingers_pan_and_pinch(out, served):
    """One finger moves a part of the run, two fingers zoom; what is under a finger stays there."""
    address, _ = served
    output = start(out, 2000)
    for first in range(1, 2001, 250):
        output.commit(*batches(first, 250))
    output.finish("complete")
    browser = Browser(width=390)
    try:
        browser.open(address)
        browser.until("return series && series.rows === 2000")
        left, top, wide = browser.run(
            "const r = document.querySelector('#white .u-over').getBoundingClientRect();"
            "return [r.left, r.top + r.height / 2, r.width]"
        )
        first, last = browser.run("return viewOf.span")
        across = [(left + part * wide, top) for part in (0.3, 0.4, 0.5, 0.6, 0.7)]
        # the whole run is in sight: there is nowhere to move
        browser.touch(across)
        assert browser.run("return viewOf.range") is None
        # fingers at 0.4 and 0.6 of the width go to 0.2 and 0.8: a third as much is in sight, around the middle
        thumb = [(left + part * wide, top) for part in (0.4, 0.3, 0.2)]
        index = [(left + part * wide, top) for part in (0.6, 0.7, 0.8)]
        browser.touch(thumb, index)
        low, high = browser.run("return [viewOf.range.min, viewOf.range.max]")
        assert high - low == pytest.approx((last - first) / 3, rel=0.05)
        assert (low + high) / 2 == pytest.approx((first + last) / 2, abs=0.02 * (last - first))
        # the page asks for that part; a finger's way to the right shows what was before
        browser.until("return series.rows < 1300")
        browser.touch(across)
        moved = browser.run("return [viewOf.range.min, viewOf.range.max]")
        assert moved[1] - moved[0] == pytest.approx(high - low, rel=1e-6)
        assert low - moved[0] == pytest.approx(0.4 * (high - low), rel=0.05)
        # and together again
        browser.touch(thumb[::-1], index[::-1])
        browser.until(
            "return viewOf.range === null || viewOf.range.max - viewOf.range.min > 0.9 * viewOf.span[1]"
        )
        assert [text for text in browser.complaints() if "favicon" not in text] == []
    finally:
        browser.close()


@pytest.mark.skipif(not Browser.available(), reason="no chromium and chromedriver here")
@pytest.mark.parametrize("served", [TOKEN], indirect=True)
def test_a_link_with_the_token_works_from_elsewhere(out, served):
    """From a mail in the browser, say; the browser keeps the cookie, and the token leaves the address."""
    address = served[0].removesuffix("?token=…")
    browser = Browser()
    try:
        browser.open(f"data:text/html,<a id='link' href='{address}?token={TOKEN}'>run</a>")
        browser.run("document.getElementById('link').click()")
        browser.until("return location.protocol === 'http:' && document.readyState === 'complete'")
        assert browser.run("return location.href") == address
        browser.until("return status && status.state === 'waiting'")
    finally:
        browser.close()


@pytest.mark.skipif(not Browser.available(), reason="no chromium and chromedriver here")
def test_a_long_run_stays_fluid(out, served):
    """130,000 rows: what is sent and drawn depends on the screen, whatever part of the run is in sight."""
    rows = 130_000
    address, _ = served
    output = start(out, rows)
    for first in range(1, rows + 1, 5000):
        output.commit(*batches(first, 5000))
    output.finish("complete")
    browser = Browser()
    try:
        browser.open(address)
        browser.until(
            f"return status && status.rows === {rows} && series && series.rows === {rows} && !asking"
        )
        browser.run(COUNT_REDRAWS)
        first, last = browser.run("return viewOf.span")
        whole = last - first
        views = [(first + 0.3 * whole, first + 0.8 * whole)]
        views += [
            (0.5 * (first + last) - part * whole, 0.5 * (first + last) + part * whole)
            for part in (0.1, 0.002)
        ]
        views += [
            (begin + 0.001 * step * whole, end + 0.001 * step * whole)
            for step in (1, 2, 3)
            for begin, end in views[-1:]
        ]
        for begin, end in views:
            browser.run(f"before = seen.length; asked = performance.now(); showRange({begin}, {end})")
            browser.until("return seen.length > before && !asking && !again")
        seen = browser.run("return seen")
        assert len(seen) >= len(views)
        assert max(one["points"] for one in seen) <= 4000
        # the closest views are drawn as they are, the others put together
        assert {one["raw"] for one in seen} == {True, False}
        assert max(one["rows"] for one in seen) > 60_000
        # generous: what is drawn here takes hundredths of a second
        assert sorted(one["drawing"] for one in seen)[len(seen) // 2] < 1000
        assert [text for text in browser.complaints() if "favicon" not in text] == []
    finally:
        browser.close()


#: notes of each redraw how much was drawn, and how long it took [ms]
COUNT_REDRAWS = """
window.seen = []; window.before = window.asked = 0;
const plain = redraw;
redraw = () => {
  const begin = performance.now();
  plain();
  const points = Math.max(...viewOf.charts.map((chart) => chart.data[0].length));
  const { rows, raw } = series;
  // the charts draw when this is over
  setTimeout(() => {
    const now = performance.now();
    seen.push({ points, rows, raw, drawing: now - begin, all: now - asked });
  });
};
"""


def _zoom(browser: Browser, *, narrow: bool) -> None:
    """Drag over a part of the light curve; on a small screen fingers move it, so press the button there."""
    if narrow:
        browser.run("document.getElementById('latest').click()")
        return
    left, top, wide = browser.run(
        "const r = document.querySelector('#white .u-over').getBoundingClientRect();"
        "return [Math.round(r.left), Math.round(r.top), Math.round(r.width)]"
    )
    move = {"type": "pointerMove", "duration": 50, "y": top + 50}
    press, release = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
    middle = left + wide // 2
    steps = [{**move, "x": middle}, press, {**move, "x": middle + 40}, release]
    browser.act("pointer", steps, parameters={"pointerType": "mouse"})
