"""The output of a run: its tables and their journal, always in step with each other.

A run has a light curve and, beside it, as many further tables as `TABLES` names; each is a file, and every commit adds
the rows of the same integrations to all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from tsostream.errors import InputError, Problem, SinkError
from tsostream.records.metadata import encode_metadata, plain_values
from tsostream.sinks.arrow_file import Extent, GrowingFile, flush_directory, refuse_existing
from tsostream.sinks.flushing import Flusher
from tsostream.sinks.journal import Entry, Journal, machine_stopped, read_journal, valid_entries
from tsostream.sinks.sameness import compare_run

__all__ = ["TABLES", "Output", "Status", "bins_path", "journal_path", "spectra_path", "table_path"]

Status = Literal["complete", "interrupted", "failed"]

#: roles of the files in the journal
LIGHT_CURVE: Final = "light_curve"
SPECTRA: Final = "spectra"
BINS: Final = "bins"

#: the tables of a run in the order of schemas and batches; all but the first are optional
TABLES: Final = (LIGHT_CURVE, SPECTRA, BINS)


def table_path(out: str | os.PathLike[str], table: str) -> Path:
    """``lc.arrow`` itself for the light curve, ``lc.<table>.arrow`` for the others."""
    out = Path(out)
    return out if table == LIGHT_CURVE else out.with_name(f"{out.stem}.{table}{out.suffix}")


def spectra_path(out: str | os.PathLike[str]) -> Path:
    """``lc.arrow`` -> ``lc.spectra.arrow``."""
    return table_path(out, SPECTRA)


def bins_path(out: str | os.PathLike[str]) -> Path:
    """``lc.arrow`` -> ``lc.bins.arrow``."""
    return table_path(out, BINS)


def journal_path(out: str | os.PathLike[str]) -> Path:
    """``lc.arrow`` -> ``lc.arrow.journal``."""
    out = Path(out)
    return out.with_name(f"{out.name}.journal")


class Output:
    """The files of one run: ``lc.arrow``, ``lc.spectra.arrow``, …; until it is complete, ``lc.arrow.journal``.

    Made by `create` or `resume`. As a context manager it ends the files when the block is left by an
    exception (``interrupted`` for KeyboardInterrupt and other non-errors, else ``failed``) or without
    `finish` (`abort`).

    Parameters of the constructor are internal.

    Attributes
    ----------
    path, spectra_path, journal_path
        The files; ``spectra_path`` is None for a run without spectra.
    paths : dict
        Table -> file, for the tables of this run.
    started
        Whether the files exist; before, nothing on disk has changed but for the lock.
    last_integration
        Number of the last committed integration, None before the first.
    """

    def __init__(
        self,
        out: Path,
        schemas: Mapping[str, pa.Schema],
        journal: Journal,
        fingerprint: Mapping[str, Any],
        *,
        overwrite: bool,
        sync_seconds: float,
    ):
        self.path = out
        self.paths = {role: table_path(out, role) for role in schemas}
        self.spectra_path = self.paths.get(SPECTRA)
        self.journal_path = journal.path
        self.last_integration: int | None = None
        self._schemas = schemas
        self._journal = journal
        self._fingerprint: dict[str, Any] = plain_values(fingerprint)
        self._overwrite = overwrite
        self._sync_seconds = sync_seconds
        self._synced = time.monotonic()
        self._flusher = Flusher()
        #: called before data are flushed: brings to the medium what was written beside them (products)
        self.before_sync: Callable[[], None] = lambda: None
        #: whether products of an older run may be replaced
        self.replaces_products = overwrite
        #: whether products may have got their names already
        self.publishing = False
        self._files: dict[str, GrowingFile] = {}
        self._closed = False

    @staticmethod
    def claim(out: str | os.PathLike[str]) -> Journal:
        """Lock the names of an output before it is known what will be in it.

        Raises
        ------
        OutputExistsError
            When another process writes it.
        InputError
            When the directory is not there or cannot be written.
        """
        try:
            journal = Journal.acquire(journal_path(out))
            journal.claim()
        except SinkError as error:  # found before the start, so a matter of the request
            raise InputError(Problem(str(error), code="unwritable")) from error
        return journal

    @classmethod
    def create(
        cls,
        out: str | os.PathLike[str],
        *table_schemas: pa.Schema | None,
        fingerprint: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        inputs: Iterable[Path] = (),
        sync_seconds: float = 5.0,
        journal: Journal | None = None,
    ) -> Output:
        """Claim the names of an output.

        The lock is taken at once, but files appear with `start`, or with the first commit: an existing output
        is not touched before the new run has something to write, and stays if the new run fails before.

        Parameters
        ----------
        out
            The light curve; the names of the other files follow from it.
        table_schemas
            One for each of `TABLES`, in their order, as far as the run has them; the light curve's comes first, None
            stands for a table this run does not have.
        fingerprint
            What identifies the run, plain JSON values; `resume` compares it.
        overwrite
            Replace existing files.
        inputs
            Files the run reads; they are never replaced.
        sync_seconds
            How often data and journal are flushed to the medium (for power failures; a kill needs none).
        journal
            From `claim`, when the names were claimed before; in any case it is the output's to close.

        Raises
        ------
        OutputExistsError
            When a file is there and ``overwrite`` is not set, or is one of the inputs, or another process
            writes it.
        InputError
            When the directory is not there or cannot be written.
        """
        out = Path(out)
        inputs = tuple(inputs)
        schemas = _schemas(table_schemas)
        # A table left behind by an older run would look as if it belonged to the new light curve.
        every = [table_path(out, role) for role in TABLES]
        for path in every:
            refuse_existing(path, overwrite=overwrite, inputs=inputs)
        journal = journal or cls.claim(out)
        try:
            for path in every:  # once more, now that nobody else can make them
                refuse_existing(path, overwrite=overwrite, inputs=inputs)
            journal.own()
        except BaseException:
            journal.close(remove=journal.is_new)
            raise
        return cls(out, schemas, journal, fingerprint or {}, overwrite=overwrite, sync_seconds=sync_seconds)

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        *table_schemas: pa.Schema | None,
        fingerprint: Mapping[str, Any] | None = None,
        sync_seconds: float = 5.0,
        journal: Journal | None = None,
    ) -> tuple[Output, int | None]:
        """Open an unfinished output again, cut behind its last whole batch.

        Parameters
        ----------
        out, table_schemas, sync_seconds, journal
            As in `create`. The columns must be those of the files; the metadata in the files stay.
        fingerprint
            Must equal that of the run that began the files.

        Returns
        -------
        output
            Ready for `commit`.
        next_integration
            Number of the first integration that is not in the files; None when the run must begin at its
            beginning.

        Raises
        ------
        InputError
            When there is nothing to resume, or another run has made it; names the differences.
        OutputExistsError
            When another process writes it.
        """
        out = Path(out)
        schemas = _schemas(table_schemas)
        if not journal_path(out).exists():
            raise InputError(_nothing_to_resume(out))
        journal = journal or Journal.acquire(journal_path(out))
        files: dict[str, GrowingFile] = {}
        try:
            header, entries = read_journal(journal.path)
            if header is None and out.exists():
                raise InputError(_no_header(out))
            if header is not None:  # without one, nothing is in the files, and anyone may begin
                compare_run(out, header, fingerprint or {})
            paths = {role: table_path(out, role) for role in schemas}
            if header is not None and machine_stopped(header):
                entries = [one for one in entries if one.last_integration <= (header["synced"] or 0)]
            valid = valid_entries(entries, paths)
            if entries and not valid:
                what = f"none of the {len(entries)} batches in the journal is in the files any more"
                raise InputError(Problem(what, str(out), "start again with --overwrite", "nothing_valid"))
            for role in schemas if valid else ():
                extents = [entry.files[role] for entry in valid[-1:]]
                files[role] = GrowingFile.resume(paths[role], schemas[role], extents)
            if valid:
                journal.cut(valid[-1].last_integration)
                _note_new_inputs(journal, header or {}, fingerprint or {})
            else:
                journal.own()
        except BaseException:
            for file in files.values():
                file.close()
            journal.close()
            raise
        output = cls(out, schemas, journal, fingerprint or {}, overwrite=True, sync_seconds=sync_seconds)
        output._files = files
        output.publishing = bool(header and header["publishing"])
        output.replaces_products = bool(header and header.get("overwrite"))
        if not valid:
            return output, None
        output.last_integration = valid[-1].last_integration
        return output, output.last_integration + 1

    @property
    def started(self) -> bool:
        """Whether the files exist."""
        return bool(self._files)

    def start(self) -> None:
        """Make the files, with nothing but their headers; `commit` does it when it was not done before.

        Raises
        ------
        SinkError
            When they cannot be written; an output that was to be replaced is still there then.
        """
        if self.started:
            return
        files: dict[str, GrowingFile] = {}
        try:
            for role, schema in self._schemas.items():
                files[role] = GrowingFile.create(
                    self.paths[role], schema, overwrite=self._overwrite, publish=False
                )
                files[role].sync()
            # From here on the old output cannot be resumed, and in the next step it is gone.
            self._journal.begin(self._fingerprint, overwrite=self.replaces_products)
            # A table whose journal says nothing would be of nobody: what names it is on the medium before it is named.
            self._journal.sync()
            flush_directory(self.path.parent)
            for file in files.values():
                file.publish(overwrite=self._overwrite)
            for role in TABLES:
                if role not in files and self._overwrite:
                    table_path(self.path, role).unlink(missing_ok=True)
            flush_directory(self.path.parent)
        except BaseException:
            for file in files.values():
                file.close()
            raise
        self._files = files

    def commit(self, *batches: pa.RecordBatch | None, last_integration: int | None = None) -> None:
        """Add the rows of some integrations to all files, then to the journal.

        Products of the same integrations must be written before.

        Parameters
        ----------
        batches
            Rows of the same integrations, one batch for each of `TABLES`; None for a table the run does not have.
        last_integration
            Number of the last one; read from the light curve when not given.

        Raises
        ------
        SinkError
            When something cannot be written. All files are then as before the call and stay readable; the
            call can be repeated.
        """
        given = {role: batch for role, batch in zip(TABLES, batches, strict=False) if batch is not None}
        if last_integration is None:
            last_integration = int(given[LIGHT_CURVE].column("integration")[-1].as_py())
        strange = sorted({*given} ^ {*self._schemas})
        if strange:
            raise SinkError(
                f"{self.path}: integration {last_integration}: {', '.join(strange)} do not go with this output"
            )
        self.start()
        before = {role: file.mark() for role, file in self._files.items()}
        try:
            extents: dict[str, Extent] = {
                role: file.append(given[role]) for role, file in self._files.items()
            }
            self._journal.commit(Entry(last_integration, extents))
        except BaseException:
            for role, file in self._files.items():
                with suppress(SinkError):  # the first error is the one to tell; resume cuts by the journal
                    file.rollback(before[role])
            raise
        self.last_integration = last_integration
        self._sync_beside()

    def _sync_beside(self) -> None:
        """Flush every few seconds without making the rows wait."""
        mark = self._flusher.collect()
        if mark is not None:
            self._journal.synced(mark)
        if (
            self._flusher.idle
            and self.last_integration is not None
            and time.monotonic() - self._synced >= self._sync_seconds
        ):
            actions = [self.before_sync, *(file.sync for file in self._files.values()), self._journal.sync]
            self._flusher.start(actions, self.last_integration)
            self._synced = time.monotonic()

    def sync(self) -> None:
        """Flush the data, then the journal, to the medium, and wait for it.

        Raises
        ------
        SinkError
            When the system reports a failed write.
        """
        self._flusher.collect(wait=True)
        self.before_sync()
        self._sync_tables()
        if self.last_integration is not None:
            self._journal.synced(self.last_integration)
        self._journal.sync()
        self._synced = time.monotonic()

    def _sync_tables(self) -> None:
        for file in self._files.values():
            file.sync()

    def add_input(self, name: str, identity: Any) -> None:
        """Note an input that came while the run goes on, so that `resume` knows it."""
        if name not in self._fingerprint.setdefault("inputs", {}):
            self._fingerprint["inputs"][name] = plain_values(identity)
            if self.started:
                self._journal.add_input(name, plain_values(identity))

    def announce_products(self) -> None:
        """Bring everything to the medium and note that the products get their names now; `finish` comes next.

        A run that ends between this and its footers is resumed by doing both again.
        """
        self.start()
        self.sync()
        if not self.publishing:
            self._journal.publishing()
            self._journal.sync()
            self.publishing = True

    def finish(self, status: Status, metadata: Mapping[str, Any] | None = None) -> None:
        """Write the footers and let go of the files.

        The journal is removed when the run is complete and stays otherwise: `resume` needs it, and everything is
        brought to the medium, so that a machine that is switched off later takes nothing away. A run that ends
        ``interrupted`` or ``failed`` before it started leaves everything as it was.

        Parameters
        ----------
        status
            How the run ended.
        metadata
            What is known now; plain JSON values, merged over the schema's by the reader.

        Raises
        ------
        SinkError
            When a footer cannot be written, or the medium does not take what was written; all committed rows
            stay readable and the journal stays.
        """
        if self._closed:
            return
        if status == "complete":
            try:
                self.start()
            except BaseException:
                self.abort()
                raise
        if not self.started:
            self.abort()
            return
        footer = encode_metadata({**(metadata or {}), "status": status})
        errors: list[SinkError] = []
        for file in self._files.values():
            try:
                file.finish(footer)
            except SinkError as error:
                errors.append(error)
        try:
            if status == "complete":
                self._flusher.collect(wait=True)
                self._sync_tables()  # the products are there already, and the journal goes
            else:
                self.sync()
        except SinkError as error:
            errors.append(error)
        self._close(remove_journal=status == "complete" and not errors)
        if errors:
            raise errors[0]

    def abort(self) -> None:
        """Let go of the files as they are: no footers, resumable. Before the start, leave nothing behind."""
        if not self._closed:
            self._close(remove_journal=not self.started and self._journal.is_new)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._closed or error is None:
            self.abort()
            return
        status: Status = "failed" if isinstance(error, Exception) else "interrupted"
        with suppress(SinkError):  # the error that ended the block is the one to tell
            self.finish(status, {"error": f"{type(error).__name__}: {error}"})

    def _close(self, *, remove_journal: bool) -> None:
        with suppress(Exception):  # what a late flush complains of is in the files, or the next write tells
            self._flusher.collect(wait=True)
        for file in self._files.values():
            file.close()
        self._journal.close(remove=remove_journal)
        self._closed = True


def _schemas(given: Iterable[pa.Schema | None]) -> dict[str, pa.Schema]:
    schemas = {role: schema for role, schema in zip(TABLES, given, strict=False) if schema is not None}
    if LIGHT_CURVE not in schemas:
        raise ValueError("an output has a light curve, whose schema comes first")
    return schemas


def _nothing_to_resume(out: Path) -> Problem:
    if out.exists():
        what = "has no journal: the run that wrote it is complete, or the journal was removed"
        return Problem(
            what, str(out), "use it as it is, or start again with --overwrite", "nothing_to_resume"
        )
    return Problem(
        "is not there, so there is nothing to resume", str(out), "leave out --resume", "nothing_to_resume"
    )


def _no_header(out: Path) -> Problem:
    what = (
        "cannot be resumed: its journal has no header, so nothing says which run it is of and what is whole"
    )
    return Problem(what, str(out), "start again with --overwrite", "nothing_to_resume")


def _note_new_inputs(journal: Journal, header: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Add inputs that came between two sessions: they belong to the run from now on."""
    known, now = (one.get("inputs", {}) for one in (header.get("fingerprint", {}), plain_values(fingerprint)))
    if isinstance(known, Mapping) and isinstance(now, Mapping):
        for name in now.keys() - known.keys():
            journal.add_input(name, now[name])
