"""Going on with a run that did not reach its end: is there one, is it the same, and from where.

What is on disk decides, nothing else: the journal names the last integration whose rows are whole in all tables, and
the products hold all integrations up to it. No step keeps a state, so the run simply begins there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tsostream.errors import ConfigError, InputError, OutputExistsError, Problem
from tsostream.files import Exposure
from tsostream.records import RowPair
from tsostream.run.prepared import Prepared, State
from tsostream.run.provenance import describe_prepared, run_fingerprint, scout_hash
from tsostream.run.ready import Ready
from tsostream.run.scout import Scout, load_scout, scout_path
from tsostream.sinks import (
    TABLES,
    Journal,
    Output,
    compare_run,
    journal_path,
    open_output,
    read_journal,
    run_differences,
    table_path,
)

__all__ = [
    "check_output",
    "check_same_run",
    "describe_sessions",
    "open_session",
    "rows_so_far",
    "scout_integrations",
    "stored_scout",
]

logger = logging.getLogger("tsostream")


_RESTART = "choose another --out, or start again with --overwrite"


def check_output(
    out: Path | None, exposure: Exposure, *, overwrite: bool = False, resume: bool = False
) -> State:
    """Look what is there under the names of an output.

    Raises
    ------
    ConfigError
        When both ``overwrite`` and ``resume`` are wanted.
    OutputExistsError
        When something is there that must not be written over, or another process writes it.
    InputError
        When the directory is not there or cannot be written, or what is there cannot be resumed.
    """
    if overwrite and resume:
        what = "--resume goes on with an output, --overwrite begins it anew"
        raise ConfigError(Problem(what, "", "give one of the two", "parameter"))
    if out is None:
        return "new"
    _check_place(out)
    inputs = [Path(segment.source_path) for segment in exposure.segments]
    names = (*(table_path(out, table) for table in TABLES), scout_path(out))
    there = [path for path in names if path.exists()]
    for path in there:
        if any(one.exists() and path.samefile(one) for one in inputs):
            raise OutputExistsError(Problem("is an input", str(path), "choose another --out", "exists"))
    locked = journal_path(out).exists()
    if locked:
        Journal.acquire(journal_path(out)).close()  # refuses while another process writes
    if resume:
        return _what_is_there(out)
    if there and not overwrite:
        todo = "choose another --out, or give --overwrite to replace it"
        what = "exists already"
        if locked and out.exists():
            what = "exists already, of a run that did not reach its end"
            todo = "go on with it (--resume), replace it (--overwrite), or choose another --out"
        raise OutputExistsError(Problem(what, str(there[0]), todo, "exists"))
    return "new"


def _check_place(out: Path) -> None:
    if not out.parent.is_dir():
        what, todo = "the directory does not exist", "make it, or choose another --out"
    elif not os.access(out.parent, os.W_OK):
        what, todo = "the directory cannot be written", "choose another --out"
    else:
        return
    raise InputError(Problem(what, str(out.parent), todo, "unwritable"))


def _what_is_there(out: Path) -> State:
    if journal_path(out).exists():
        header, _ = read_journal(journal_path(out))
        if header is None and out.exists() and open_output(out).status == "complete":
            what = (
                "is complete and of an older run; the run to be resumed was stopped before it wrote anything"
            )
            raise InputError(Problem(what, str(out), _RESTART, "nothing_to_resume"))
        return "unfinished"
    if not out.exists():
        return "new"
    status = open_output(out).status
    if status == "complete":
        return "complete"
    what = f"cannot be resumed: it is not complete ({status}), and its journal {journal_path(out).name} is not there"
    raise InputError(Problem(what, str(out), f"put the journal back, or {_RESTART}", "nothing_to_resume"))


def _lost_header(out: Path) -> bool:
    """Whether a table is there whose journal says nothing: its first line did not survive a power failure."""
    return out.exists() and read_journal(journal_path(out))[0] is None


def check_same_run(prepared: Prepared) -> str:
    """Compare what is known before the scout with what the output was begun with.

    Where the journal has lost that, the table itself tells what it was begun with.

    Returns
    -------
    str
        What is worth a note; empty when nothing is.

    Raises
    ------
    InputError
        With every difference: inputs, configuration, references, products, versions.
    """
    if prepared.out is None or prepared.state == "new":
        return ""
    now = run_fingerprint(describe_prepared(prepared))
    if prepared.state == "complete":
        found = run_differences(
            str(prepared.out), run_fingerprint(open_output(prepared.out).metadata), now, only=now.keys()
        )
        if found:
            raise InputError(found)
        return ""
    if _lost_header(prepared.out):
        begun = {"fingerprint": run_fingerprint(open_output(prepared.out).metadata)}
        compare_run(prepared.out, begun, now, only=now.keys())
        return (
            f"{prepared.out} is of this run, but {journal_path(prepared.out).name} has lost its header (a power "
            "failure does that), so it is not known what is whole: the run begins anew"
        )
    header, _ = read_journal(journal_path(prepared.out))
    if header is not None:
        compare_run(prepared.out, header, now, only=now.keys())
    return ""


def stored_scout(prepared: Prepared) -> Scout | None:
    """Templates the run to be resumed began with; None where they are not there, or not whole."""
    out = prepared.out
    if out is None or prepared.state != "unfinished":
        return None
    header, _ = read_journal(journal_path(out))
    if header is None or not scout_path(out).exists():
        return None
    try:
        scout = load_scout(scout_path(out), prepared.exposure.info.frame_shape)
    except ConfigError:
        return None
    if scout_hash(scout) != header["fingerprint"].get("scout"):
        return None
    logger.info("the templates of the run are there already: %s", scout_path(out))
    return scout


def scout_integrations(prepared: Prepared) -> list[int] | None:
    """Integrations the scout of the run to be resumed was made from; None where that is not known."""
    if prepared.out is None or prepared.state != "unfinished":
        return None
    header, _ = read_journal(journal_path(prepared.out))
    numbers: list[int] | None = header["fingerprint"].get("scout_integrations") if header else None
    return numbers


def open_session(ready: Ready, journal: Journal) -> tuple[Output, int | None]:
    """Open the output of a run.

    Parameters
    ----------
    ready
        The run.
    journal
        The claim on its names.

    Returns
    -------
    output
        To commit to.
    following
        The first integration that is not in it; None when it is empty.

    Raises
    ------
    InputError, SinkError
        When it cannot be opened; the claim is given up then.
    """
    prepared = ready.prepared
    fingerprint = run_fingerprint(ready.start)
    if prepared.out is None:
        raise ValueError("the run has no output")
    anew = prepared.state == "unfinished" and _lost_header(prepared.out)
    if prepared.state == "unfinished" and not anew:
        return Output.resume(prepared.out, *ready.schemas, fingerprint=fingerprint, journal=journal)
    output = Output.create(
        prepared.out,
        *ready.schemas,
        fingerprint=fingerprint,
        overwrite=prepared.request.overwrite or anew,
        inputs=[Path(segment.source_path) for segment in prepared.exposure.segments],
        journal=journal,
    )
    output.replaces_products = prepared.request.overwrite
    return output, None


def rows_so_far(out: Path) -> Iterator[RowPair]:
    """Light-curve rows that are in an output, batch by batch; for what the footer counts."""
    for batch in open_output(out).batches():
        yield RowPair(batch, None)


def describe_sessions(out: Path) -> dict[str, Any]:
    """Say behind which integrations the run was resumed."""
    if not journal_path(out).exists():
        return {}
    header, _ = read_journal(journal_path(out))
    return {"resumed_after": header["sessions"]} if header and header["sessions"] else {}
