"""Downloads what the CRDS cache does not hold: before a run, never in the middle of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsostream.errors import Problem, ReferenceMismatchError
from tsostream.references.crds_client import (
    SERVER,
    Answer,
    Progress,
    cache_place,
    failing_aloud,
    import_crds,
    locate,
    server_url,
)

__all__ = ["fetch_files"]


def fetch_files(
    answer: Answer,
    parameters: Mapping[str, Any],
    *,
    types: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Answer:
    """Download what the cache does not hold, with crds's own downloader, and check its sha1.

    Parameters
    ----------
    answer
        From `ask_crds`.
    parameters
        The same as there; they decide the folder in the cache.
    types
        Only these; default all that are wanting.
    progress
        Told after every piece.

    Returns
    -------
    Answer
        With the new files among ``cached``.

    Raises
    ------
    ReferenceMismatchError
        One problem that names every file that is not there in the end, and why.
    """
    wanting = {kind: file for kind, file in answer.wanting.items() if types is None or kind in types}
    if not wanting:
        return answer
    names = sorted(set(wanting.values()))
    if not server_url():
        why = f"no CRDS server is named (CRDS_SERVER_URL={SERVER})"
        raise ReferenceMismatchError(_not_there(wanting, answer.context, why))
    crds = import_crds()
    why = ""
    try:
        with failing_aloud(server_url()):
            _downloader(progress)(
                answer.context, raise_exceptions=True, parameters=dict(parameters)
            ).get_local_files(names)
    except ReferenceMismatchError as error:
        why = str(error)
    cached = dict(answer.cached)
    for kind, file in wanting.items():
        path = locate(crds, file, parameters)
        if path is not None and path.is_file():
            cached[kind] = path
    lost = {kind: file for kind, file in wanting.items() if kind not in cached}
    if lost:
        raise ReferenceMismatchError(_not_there(lost, answer.context, why or "the download left no file"))
    return Answer(answer.context, answer.files, cached, answer.absent, answer.notes)


def _not_there(wanting: Mapping[str, str], context: str, why: str) -> Problem:
    files = ", ".join(f"{file} ({kind})" for kind, file in wanting.items())
    what = f"{context} asks for {files}, which the CRDS cache {cache_place()} does not hold"
    return Problem(
        f"{what} and which cannot be downloaded: {why}",
        "",
        f"connect and set CRDS_SERVER_URL={SERVER}, or copy the files and give --refs DIR or "
        "--override TYPE=FILE",
        "missing_reference",
    )


def _downloader(progress: Progress | None) -> Callable[..., Any]:
    """Give crds's downloader (retries, lock, sha1, atomic rename), telling how far it is.

    Returns
    -------
    type
        A class to be called as ``crds.client.api.FileCacher`` is.
    """
    from crds.client import api

    class Counting(api.FileCacher):
        def get_data_http(self, filename: str) -> Iterator[bytes]:
            done, size = 0, self.catalog_file_size(filename)
            if progress is not None:
                progress(filename, 0, size)
            for piece in super().get_data_http(filename):
                done += len(piece)
                if progress is not None:
                    progress(filename, done, size)
                yield piece

        def verify_file(self, filename: str, localpath: str) -> None:
            # crds moves the file into the cache before it checks it, and leaves it there when it is damaged
            try:
                super().verify_file(filename, localpath)
            except Exception:
                Path(localpath).unlink(missing_ok=True)
                raise

    return Counting
