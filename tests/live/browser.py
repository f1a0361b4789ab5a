"""A browser without a screen, spoken to over the WebDriver protocol of its own driver."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


class Browser:
    """Chromium; `available` says whether it is here."""

    def __init__(self, *, width: int = 1280, height: int = 1000, dark: bool = False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            [shutil.which("chromedriver"), f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._base = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        arguments += ["--disable-dev-shm-usage", "--no-proxy-server"]
        if dark:
            arguments.append("--force-dark-mode")
        options = {"binary": shutil.which("chromium"), "args": arguments}
        options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}}
        if width > 700:
            del options["mobileEmulation"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._session = ""
        made = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    @staticmethod
    def available() -> bool:
        """Whether both programs are installed."""
        return bool(shutil.which("chromedriver") and shutil.which("chromium"))

    def open(self, url: str) -> None:
        """Go to a page."""
        self._send("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run JavaScript; returns what it returns."""
        return self._send("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def until(self, script: str, *, seconds: float = 120.0) -> Any:
        """Wait until a script returns something true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}\n{self.complaints()}"
            time.sleep(0.1)
        return value

    def complaints(self) -> list[str]:
        """What the console says."""
        return [
            entry["message"] for entry in self._send("POST", f"{self._session}/se/log", {"type": "browser"})
        ]

    def picture(self, path: Path) -> None:
        """Save what is seen."""
        path.write_bytes(base64.b64decode(self._send("GET", f"{self._session}/screenshot")))

    def act(self, kind: str, steps: list[dict[str, Any]], **more: Any) -> None:
        """Move pointers or keys as the protocol says."""
        self._send(
            "POST",
            f"{self._session}/actions",
            {"actions": [{"type": kind, "id": kind, "actions": steps, **more}]},
        )

    def touch(self, *fingers: list[tuple[float, float]]) -> None:
        """Put fingers down, move each along its places, and take them up again; all move at the same time."""
        actions = []
        for number, (first, *others) in enumerate(fingers):
            steps: list[dict[str, Any]] = [
                {"type": "pointerMove", "duration": 0, "x": first[0], "y": first[1]}
            ]
            steps += [{"type": "pointerDown", "button": 0}]
            steps += [{"type": "pointerMove", "duration": 60, "x": x, "y": y} for x, y in others]
            steps += [{"type": "pointerUp", "button": 0}]
            parameters = {"pointerType": "touch"}
            actions.append(
                {"type": "pointer", "id": f"finger{number}", "parameters": parameters, "actions": steps}
            )
        self._send("POST", f"{self._session}/actions", {"actions": actions})

    def close(self) -> None:
        """End both programs."""
        with contextlib.suppress(OSError):
            self._send("DELETE", self._session)
        self._driver.terminate()
        self._driver.wait(timeout=10)

    def _wait_for_driver(self) -> None:
        end = time.monotonic() + 90
        while True:
            try:
                if self._send("GET", "/status")["ready"]:
                    return
            except OSError:
                assert time.monotonic() < end, "the driver does not answer"
            time.sleep(0.1)

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:400]}") from error
