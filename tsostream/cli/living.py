"""``tsostream live``: a run as a page in the browser."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tsostream.cli.options import Grouped, grouped

if TYPE_CHECKING:
    import socket

__all__ = ["live"]

EXAMPLES: Final = """
tsostream live lc.arrow
tsostream live lc.arrow --port 9000
TSOSTREAM_TOKEN=a-long-secret tsostream live lc.arrow --host 0.0.0.0
"""

#: port that is tried when none is given; a free one when it is taken
PORT: Final = 8337
#: shortest token that is accepted
SHORTEST: Final = 8


@click.command("live", cls=Grouped, examples=EXAMPLES)
@click.argument("path", metavar="LC.ARROW", type=click.Path(path_type=Path))
@grouped(
    "Address",
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help=f"Port; 0: any free one [default: {PORT}, or a free one].",
)
@grouped(
    "Address",
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address or name to listen on, which browsers must use too. Any but this machine's own needs a token.",
)
@grouped(
    "Address",
    "--token",
    envvar="TSOSTREAM_TOKEN",
    metavar="TEXT",
    help="What a browser must know, as in /?token=TEXT. Other users see command lines: better set "
    "TSOSTREAM_TOKEN.",
)
def live(path: Path, port: int | None, host: str, token: str | None) -> None:
    """Show a run as a page: light curve, spectra, position, flags, scatter, progress.

    The page shows new rows as they come, whether the run has not begun yet, goes on or is over. It needs no internet.
    It stands behind the run and takes about a hundredth of a processor in the long run: it shows new rows up to twice a
    second, and every few seconds (15 at most) of a long run. What you ask for by hand is answered at once. Ctrl-C ends
    it.
    """
    from tsostream.errors import ConfigError, InputError, Problem

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        what = f"the page needs {' and '.join(missing)}"
        raise InputError(Problem(what, todo="pip install 'tsostream[live]'", code="extra"))
    import uvicorn

    from tsostream.live.pace import step_back
    from tsostream.live.server import Access, is_loopback, make_app
    from tsostream.live.store import Store

    if token is not None and len(token) < SHORTEST:
        raise ConfigError(
            Problem("the token is too short", todo=f"take {SHORTEST} characters or more", code="token")
        )
    if token is None and not is_loopback(host):
        what = f"{host} can be reached by others, and there is no token"
        todo = "set TSOSTREAM_TOKEN, or leave out --host and use a tunnel (ssh -L)"
        raise ConfigError(Problem(what, todo=todo, code="token"))
    step_back()
    store = Store(path.expanduser())
    store.poll()  # what is no light curve is said now, not on the page
    bound = _bind(host, port)
    address = f"[{host}]" if ":" in host else host
    click.echo(f"http://{address}:{bound.getsockname()[1]}/" + ("?token=…" if token else ""))
    app = make_app(store, Access(host, token))
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="on",
        ws="none",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):  # how a page is ended
        server.run(sockets=[bound])


def _bind(host: str, port: int | None) -> socket.socket:
    """Listen; on any free port when none was asked for and the usual one is taken.

    Raises
    ------
    InputError
        The address or port cannot be had.
    """
    import socket

    from tsostream.errors import InputError, Problem

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    error: OSError | None = None
    for one in (PORT, 0) if port is None else (port,):
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, one))
            bound.listen()  # who reads the address may come before the server is up
        except OSError as problem:
            bound.close()
            error = problem
        else:
            return bound
    reason = (error.strerror or str(error)) if error else ""
    todo = "give another --port or --host"
    raise InputError(Problem(f"cannot listen: {reason}", f"{host}:{port}", todo, "address"))
