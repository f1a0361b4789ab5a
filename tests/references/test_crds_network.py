"""Downloads before the run, from a server that is faked; offline, nothing is asked of the network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from crds_cache import CONTEXT, CrdsCache
from exposures_of_modes import mode_info

from tsostream.errors import ReferenceMismatchError
from tsostream.references import CrdsWish, find_references, judge_missing
from tsostream.references.crds_client import Answer, Trouble, ask_crds
from tsostream.references.crds_fetch import fetch_files
from tsostream.references.crds_parameters import crds_parameters

INFO = mode_info("NRS_BRIGHTOBJ")
PARAMETERS = crds_parameters(INFO)


class FakeServer(ThreadingHTTPServer):
    """Answers what the crds client asks, out of a cache on disk, and counts the calls."""

    def __init__(self, source: CrdsCache):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.source = source
        self.calls: list[str] = []
        self.broken: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_port}"

    def file(self, name: str) -> Path | None:
        return next((path for path in self.source.root.rglob(name)), None)

    def answer(self, method: str) -> Any:
        files = [path for path in self.source.root.rglob("*") if path.is_file()]
        sizes = {
            path.name: {
                "size": str(path.stat().st_size),
                "sha1sum": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in files
        }
        if method == "get_server_info":
            from crds.client import proxy

            url = {"unchecked": {"jwst": self.url}}
            places = {"reference_url": url, "mapping_url": url, "config_url": url, "pickle_url": url}
            return self.source.server_info() | places | {"download_metadata": proxy.crds_encode(sizes)}
        if method in ("get_default_context", "get_build_context"):
            return self.source.context
        if method == "get_mapping_names":
            return [path.name for path in self.source.mappings.iterdir()]
        raise AssertionError(f"the client asked for {method}")


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append(call["method"])
        self._send(json.dumps({"error": None, "result": self.server.answer(call["method"])}).encode())

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.calls.append(name)
        path = self.server.file(name)
        if path is None or name in self.server.broken:
            self.send_error(404)
        else:
            self._send(path.read_bytes())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server with rules and three files; the client's own cache is empty."""
    source = CrdsCache(tmp_path / "server")
    for kind, values in {
        "gain": ("NRS1",),
        "readnoise": ("NRS1", "NRSRAPID"),
        "linearity": ("NRS1",),
    }.items():
        path = tmp_path / f"jwst_nirspec_{kind}_0001.fits"
        path.write_bytes(kind.encode() * 1000)
        source.add("NIRSPEC", kind, values, path)
    fake = FakeServer(source.write())
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("CRDS_SERVER_URL", fake.url)
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()


def test_rules_and_files_come_before_the_run(server, tmp_path):
    seen: list[tuple[str, int, int]] = []
    wish = CrdsWish(progress=lambda *told: seen.append(told))
    chosen = find_references(INFO, wanted=["gain", "linearity"], crds=wish)
    assert chosen.context == CONTEXT
    assert chosen.paths["gain"] == tmp_path / "cache/references/jwst/nirspec/jwst_nirspec_gain_0001.fits"
    assert chosen.paths["gain"].read_bytes() == b"gain" * 1000
    assert not (tmp_path / "cache/references/jwst/nirspec/jwst_nirspec_readnoise_0001.fits").exists()
    assert seen[0] == ("jwst_nirspec_gain_0001.fits", 0, 4000)
    assert ("jwst_nirspec_gain_0001.fits", 4000, 4000) in seen
    assert ("jwst_nirspec_linearity_0001.fits", 9000, 9000) in seen


def test_what_is_cached_is_not_asked_for_again(server, monkeypatch):
    """With the rules pinned and the files there, the server that is named hears nothing."""
    find_references(INFO, wanted=["gain"], crds=CrdsWish())
    server.calls.clear()
    monkeypatch.setenv("CRDS_CONTEXT", CONTEXT)
    assert find_references(INFO, wanted=["gain"], crds=CrdsWish()).source == {"gain": "crds"}
    assert server.calls == []


def test_the_official_client_finds_the_same_cache(server):
    """What we downloaded, crds.getreferences takes without a download of its own."""
    ours = find_references(INFO, wanted=["gain"], crds=CrdsWish())
    import crds

    server.calls.clear()
    official = crds.getreferences(PARAMETERS, reftypes=["gain"], context=CONTEXT, observatory="jwst")
    assert official == {"gain": str(ours.paths["gain"])}
    assert not [call for call in server.calls if call.endswith(".fits")]


def test_looking_does_not_download(server):
    chosen = find_references(INFO, wanted=["gain"], crds=CrdsWish(fetch=False))
    assert chosen.not_cached == {"gain": "jwst_nirspec_gain_0001.fits"}
    assert "is not in the cache yet: process or refs fetch gets it" in chosen.missing["gain"][0]


def test_a_download_that_fails_names_the_files(server, monkeypatch):
    monkeypatch.setenv("CRDS_CLIENT_RETRY_COUNT", "1")
    server.broken = {"jwst_nirspec_gain_0001.fits"}
    with pytest.raises(ReferenceMismatchError) as caught:
        find_references(INFO, wanted=["gain", "linearity"], crds=CrdsWish())
    text = str(caught.value)
    assert f"{CONTEXT} asks for jwst_nirspec_gain_0001.fits (gain)" in text
    assert "404" in text
    assert "--refs DIR or --override TYPE=FILE" in text


def test_a_file_that_arrives_damaged_is_not_used(server, tmp_path):
    """crds checks the sha1 of what it downloads; a file that fails stays out of the run."""
    metadata = server.answer
    wrong = {"size": "4000", "sha1sum": "0" * 40}

    def lie(method: str) -> Any:
        from crds.client import proxy

        answer = metadata(method)
        if method == "get_server_info":
            answer["download_metadata"] = proxy.crds_encode({"jwst_nirspec_gain_0001.fits": wrong})
        return answer

    answer = ask_crds(PARAMETERS, ["gain"])
    assert isinstance(answer, Answer)
    server.answer = lie
    from crds.core import utils

    utils.clear_function_caches()
    with pytest.raises(ReferenceMismatchError, match="sha1sum"):
        fetch_files(answer, PARAMETERS)


def test_no_server_no_download(server, monkeypatch):
    answer = ask_crds(PARAMETERS, ["gain"])
    monkeypatch.delenv("CRDS_SERVER_URL")
    with pytest.raises(ReferenceMismatchError, match="cannot be downloaded: no CRDS server is named"):
        fetch_files(answer, PARAMETERS)


def test_an_unreachable_server_leaves_the_cache(server, monkeypatch):
    """On the plane: the cache's last context, and a note; without any cache one reason."""
    find_references(INFO, wanted=["gain"], crds=CrdsWish())
    import crds.core.heavy_client as client

    client.update_config_info("jwst")  # what any connected run of the official pipeline leaves behind
    monkeypatch.setenv("CRDS_SERVER_URL", "http://localhost:9")
    monkeypatch.setenv("CRDS_CLIENT_RETRY_COUNT", "1")
    chosen = find_references(INFO, wanted=["gain"], crds=CrdsWish())
    assert chosen.source == {"gain": "crds"}
    assert "could not be reached; the context jwst_0042.pmap is the cache's last" in str(chosen.notes[0])
    monkeypatch.setenv("CRDS_PATH", "/nonexistent")
    trouble = ask_crds(PARAMETERS, ["gain"])
    assert isinstance(trouble, Trouble)
    assert "http://localhost:9 could not be reached" in trouble.why


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
sys.path.insert(0, {here!r})
from exposures_of_modes import mode_info
from tsostream.references import CrdsWish, find_references
chosen = find_references(mode_info("NRS_BRIGHTOBJ"), wanted=["gain"], crds=CrdsWish())
print(chosen.context, chosen.paths["gain"].name, len(chosen.notes))
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"CRDS_SERVER_URL": "https://crds-serverless-mode.stsci.edu"},
        {"CRDS_SERVER_URL": "https://jwst-crds.stsci.edu", "CRDS_CONTEXT": CONTEXT},
    ],
    ids=["no server", "serverless", "pinned context"],
)
def test_offline_nothing_is_asked_of_the_network(tmp_path, environment):
    """Sockets end the process: with the cache present none is opened."""
    path = tmp_path / "jwst_nirspec_gain_0001.fits"
    path.write_bytes(b"x")
    cache = CrdsCache(tmp_path / "crds")
    cache.add("NIRSPEC", "gain", ("NRS1",), path)
    cache.write()
    own = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE.format(here=str(Path(__file__).parent))],
        env=own | {"CRDS_PATH": str(cache.root)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{CONTEXT} jwst_nirspec_gain_0001.fits 0\n", done.stderr
    assert done.returncode == 0


def test_one_message_without_cache_and_server():
    steps = {"dq_init": ["mask"], "jump": ["gain", "readnoise"], "ramp_fit": ["gain", "readnoise"]}
    wanted = sorted({name for names in steps.values() for name in names})
    chosen = find_references(INFO, wanted=wanted, crds=CrdsWish())
    (problem,) = judge_missing(chosen, steps, "NIRSPEC").errors
    assert str(problem) == (
        "3 reference files are missing: mask for dq_init, gain for jump and ramp_fit, readnoise for jump and "
        "ramp_fit; CRDS was not asked: neither a cache (CRDS_PATH) nor a server (CRDS_SERVER_URL) is named; "
        "supply them in one of three ways: from CRDS (set CRDS_PATH to a cache, and "
        "CRDS_SERVER_URL=https://jwst-crds.stsci.edu to download what it lacks), as a directory (--refs DIR), "
        "or one by one (--override TYPE=FILE); or leave steps out, as in --skip-step dq_init"
    )


def test_importing_costs_nothing_until_crds_is_asked():
    # astropy itself imports asdf as soon as asdf-astropy is installed
    heavy = {"crds"} if find_spec("asdf_astropy") else {"crds", "asdf"}
    code = f"import sys, tsostream.run.setup; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
