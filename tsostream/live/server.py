"""The page of a run, served to a browser: its files, three questions about the data, and a stream of events.

Nothing else is served. By default only this machine can ask, and only under the names of this machine: another page
open in the same browser cannot reach it by giving its own name our address.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tsostream.errors import InputError
from tsostream.live.pace import Pace
from tsostream.live.store import Key, Store

__all__ = ["Access", "is_loopback", "make_app"]

#: path -> file of the package, and its type
ASSETS: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/uplot.js": ("uPlot.iife.min.js", "text/javascript"),
    "/uplot.css": ("uPlot.min.css", "text/css"),
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_COOKIE: Final = "tsostream_token"
#: seconds between two looks at the file, and so between two events, at least
_LOOK: Final = 0.5
_MAX_POINTS: Final = 4000


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Parameters
    ----------
    host
        Address that is listened on.
    token
        What a browser must know; None: whoever can reach a loopback address.
    """

    host: str = "127.0.0.1"
    token: str | None = None

    def knows_host(self, header: str) -> bool:
        """Whether a Host header is a name of this server."""
        name = urlsplit(f"//{header}").hostname or ""
        if is_loopback(name) or name == self.host.lower():
            return True
        # on all addresses nobody can say which names are ours; the token decides
        return self.token is not None and self.host in ("0.0.0.0", "::")

    def address(self, port: int | None) -> str:
        """Under which address this server answers."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def knows_token(self, given: str) -> bool:
        """Whether this is the token."""
        return self.token is None or hmac.compare_digest(given.encode(), self.token.encode())


class _Guard:
    """Every request passes here first.

    Parameters
    ----------
    app
        Who answers.
    access
        Who may ask.
    """

    def __init__(self, app: ASGIApp, access: Access):
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(Request(scope))

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        access = self._access
        try:
            known = access.knows_host(request.headers.get("host", ""))
        except ValueError:
            known = False
        if not known:
            port = (request.scope.get("server") or ("", 0))[1]
            return PlainTextResponse(
                f"this server is not known by that name: open {access.address(port)}", 421
            )
        if access.token is None:
            return None
        asked = request.query_params.get("token")
        if asked is not None and access.knows_token(asked):
            # out of the address bar, out of the history; "lax": who follows a link in a mail brings the cookie along,
            # what another page asks for does not
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(_COOKIE, asked, httponly=True, samesite="lax")
            return response
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if access.knows_token(request.cookies.get(_COOKIE, "")) or access.knows_token(bearer):
            return None
        return PlainTextResponse("give the token: /?token=…", 401)


class _Page:
    """Answers; one per server.

    Parameters
    ----------
    store
        What is shown.
    """

    def __init__(self, store: Store):
        self.store = store
        self._changed = asyncio.Event()
        self._failure = ""

    async def follow(self) -> None:
        """Keep the store up to date, and wake up whoever waits for news.

        What the last news has cost, all that pages asked for on it included, decides when the next one may come.
        Questions are never held back: whoever moves through the run by hand is answered at once.
        """
        clock = asyncio.get_running_loop().time
        last, pace, since = "", Pace(_LOOK), clock()
        while True:
            try:
                more = self.store.poll()
                self._failure = ""
            except InputError as error:
                more, self._failure = False, str(error)
            # pages ask once for what has come, and now and then while a long file is read
            if not more or clock() - since > _LOOK:
                now = json.dumps(self.status())
                if now != last:
                    last = now
                    self._changed.set()
                    self._changed = asyncio.Event()
                since = clock()
            if more:
                await asyncio.sleep(0)  # requests are answered in between
            else:
                await asyncio.sleep(pace.rest(waiting=self.store.follower.state == "waiting"))
                since = clock()

    def status(self) -> dict[str, Any]:
        """How the run is doing."""
        status = self.store.status()
        return {**status, "state": "unreadable", "error": self._failure} if self._failure else status

    async def asset(self, request: Request) -> Response:
        """Answer with a file of the page."""
        name, kind = ASSETS[request.url.path]
        data = files("tsostream.live").joinpath("page", name).read_bytes()
        return Response(data, media_type=kind)

    async def ask_status(self, request: Request) -> Response:
        """Answer how the run is doing."""
        return JSONResponse(self.status())

    async def ask_series(self, request: Request) -> Response:
        """Answer with the light curve between two times."""
        try:
            key, begin, end, points = _question(request, self.store)
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        series = self.store.series.get(key)
        if series is None:
            return JSONResponse({"rows": 0})
        return JSONResponse({"span": [series.x[0], series.x[-1]], **series.decimated(begin, end, points)})

    async def ask_picture(self, request: Request) -> Response:
        """Answer with the spectra between two times."""
        try:
            key, begin, end, points = _question(request, self.store)
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        series, picture = self.store.series.get(key), self.store.pictures.get(key)
        if series is None or picture is None or not len(series):
            return JSONResponse({"columns": 0})
        first, last = series.rows(begin, end)
        numbers = series.column("integration")
        residual = request.query_params.get("mode") == "residual"
        first, last = min(first, len(numbers) - 1), max(first, last - 1)
        drawn = picture.drawn(int(numbers[first]), int(numbers[last]), points, residual=residual)
        if drawn["columns"]:
            import numpy as np

            drawn["x"] = np.interp(drawn.pop("numbers"), numbers, series.x).tolist()
        return JSONResponse(drawn)

    async def events(self, request: Request) -> Response:
        """Tell the status now, and whenever it has changed."""
        return StreamingResponse(self._news(), media_type="text/event-stream")

    async def _news(self) -> AsyncIterator[str]:
        while True:
            changed = self._changed
            yield f"data: {json.dumps(self.status())}\n\n"
            while not changed.is_set():  # without news nobody is told to look again
                try:
                    await asyncio.wait_for(changed.wait(), timeout=15.0)
                except TimeoutError:
                    yield ": still here\n\n"


def _question(request: Request, store: Store) -> tuple[Key, float, float, int]:
    """Order and aperture, begin and end, number of points."""
    query = request.query_params
    try:
        order, _, aperture = query["key"].partition(",") if "key" in query else ("", "", "")
        key = (int(order), int(aperture)) if order else next(iter(store.series), (0, 0))
        begin, end = float(query.get("from", "-inf")), float(query.get("to", "inf"))
        points = min(_MAX_POINTS, max(2, int(query.get("points", "1000"))))
    except ValueError as error:
        raise ValueError("key=ORDER,APERTURE, from, to and points are numbers") from error
    return key, begin, end, points


def make_app(store: Store, access: Access) -> ASGIApp:
    """Make the application that serves one run.

    Parameters
    ----------
    store
        The run.
    access
        Who may ask.
    """
    page = _Page(store)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(page.follow())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    routes = [Route(path, page.asset, methods=["GET"]) for path in ASSETS]
    routes += [
        Route("/api/status", page.ask_status, methods=["GET"]),
        Route("/api/series", page.ask_series, methods=["GET"]),
        Route("/api/picture", page.ask_picture, methods=["GET"]),
        Route("/events", page.events, methods=["GET"]),
    ]
    return _Guard(Starlette(routes=routes, lifespan=lifespan), access)
