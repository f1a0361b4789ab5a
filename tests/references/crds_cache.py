"""A CRDS cache made by hand: rules in the real text format, and whatever files they name.

::

    cache = CrdsCache(tmp_path)
    cache.rule("NIRSPEC", "dark", "META.INSTRUMENT.DETECTOR", {("NRS1",): {"2022-01-01 00:00:00": "d1.fits"}})
    cache.write()

Checksums in the rules are right, as crds refuses rules without them.
"""

from __future__ import annotations

import pprint
import shutil
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = "jwst_0042.pmap"
#: types every instrument has in this cache, with the keys real rules select them by
PARKEYS = {
    "mask": ("META.INSTRUMENT.DETECTOR", "META.SUBARRAY.NAME"),
    "saturation": ("META.INSTRUMENT.DETECTOR", "META.SUBARRAY.NAME"),
    "superbias": ("META.INSTRUMENT.DETECTOR", "META.EXPOSURE.READPATT", "META.SUBARRAY.NAME"),
    "linearity": ("META.INSTRUMENT.DETECTOR",),
    "dark": ("META.INSTRUMENT.DETECTOR", "META.EXPOSURE.READPATT", "META.SUBARRAY.NAME"),
    "gain": ("META.INSTRUMENT.DETECTOR",),
    "readnoise": ("META.INSTRUMENT.DETECTOR", "META.EXPOSURE.READPATT"),
    "flat": ("META.INSTRUMENT.DETECTOR", "META.INSTRUMENT.FILTER", "META.EXPOSURE.TYPE"),
    "reset": ("META.INSTRUMENT.DETECTOR", "META.SUBARRAY.NAME", "META.EXPOSURE.READPATT"),
    "rscd": ("META.INSTRUMENT.DETECTOR",),
    "pars-jumpstep": ("META.EXPOSURE.TYPE", "META.VISIT.TSOVISIT"),
    "pars-detector1pipeline": ("META.VISIT.TSOVISIT",),
}
DATE = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")
INSTRUMENTS = ("MIRI", "NIRCAM", "NIRISS", "NIRSPEC")

Choices = dict[tuple[str, ...], dict[str, str]]


def with_checksum(text: str) -> str:
    """Put the checksum crds expects into the text of a rule."""
    from crds.core import utils

    body = "".join(line for line in text.splitlines(True) if "sha1sum" not in line)
    return text.replace("SHA1", utils.str_checksum(body))


@dataclass
class CrdsCache:
    """Rules and files below one folder, laid out as CRDS_PATH."""

    root: Path
    context: str = CONTEXT
    rules: dict[str, dict[str, tuple[tuple[str, ...], Choices] | str]] = field(default_factory=dict)

    @property
    def number(self) -> str:
        return self.context.removeprefix("jwst_").removesuffix(".pmap")

    @property
    def mappings(self) -> Path:
        return self.root / "mappings" / "jwst"

    def references(self, instrument: str) -> Path:
        return self.root / "references" / "jwst" / instrument.lower()

    def rule(
        self, instrument: str, kind: str, choices: Choices | str, parkey: tuple[str, ...] | None = None
    ) -> None:
        """Say which file: ``{(key values): {useafter: file}}``, or ``N/A``."""
        entry = choices if isinstance(choices, str) else (parkey or PARKEYS[kind], choices)
        self.rules.setdefault(instrument, {})[kind] = entry

    def add(
        self,
        instrument: str,
        kind: str,
        values: tuple[str, ...],
        path: Path | str,
        useafter: str = "2020-01-01 00:00:00",
    ) -> str:
        """Put a file into the cache and into the rules; a text is only named, not stored."""
        name = Path(path).name
        if isinstance(path, Path):
            folder = self.references(instrument)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
        entry = self.rules.setdefault(instrument, {}).setdefault(kind, (PARKEYS[kind], {}))
        assert not isinstance(entry, str)
        entry[1].setdefault(values, {})[useafter] = name
        return name

    def write(self, *, server_config: bool = True) -> CrdsCache:
        """Write pmap, imaps, rmaps, and what a server once told."""
        self.mappings.mkdir(parents=True, exist_ok=True)
        number = self.number
        imaps = {}
        for instrument in INSTRUMENTS:
            kinds = self.rules.get(instrument, {})
            self.references(instrument).mkdir(parents=True, exist_ok=True)
            entries = {}
            for kind, rule in kinds.items():
                if isinstance(rule, str):
                    entries[kind] = rule
                else:
                    entries[kind] = self._rmap(instrument, kind, *rule)
            imaps[instrument] = f"jwst_{instrument.lower()}_{number}.imap"
            header = {"instrument": instrument, "mapping": "INSTRUMENT", "name": imaps[instrument],
                      "observatory": "JWST", "parkey": ("REFTYPE",), "sha1sum": "SHA1",
                      "derived_from": "a test"}  # fmt: skip
            self._text(imaps[instrument], header, pprint.pformat(entries))
        header = {"mapping": "PIPELINE", "name": self.context, "observatory": "JWST",
                  "parkey": ("META.INSTRUMENT.NAME",), "sha1sum": "SHA1",
                      "derived_from": "a test"}  # fmt: skip
        self._text(self.context, header, pprint.pformat(imaps))
        config = self.root / "config" / "jwst"
        config.mkdir(parents=True, exist_ok=True)
        (config / "ref_cache_subdir_mode").write_text("instrument")
        if server_config:
            (config / "server_config").write_text(repr(self.server_info()))
        return self

    def server_info(self) -> dict[str, object]:
        """What the server says about itself, as far as the client looks at it."""
        return {
            "observatory": "jwst", "operational_context": self.context, "latest_context": self.context,
            "edit_context": self.context, "bad_files": "", "bad_files_list": [], "force_remote_mode": False,
            "last_synced": "2026-01-01 00:00:00", "crds_version": {"str": "14.0.0"}, "mappings": [],
            "reference_url": {"unchecked": "file:///nowhere/", "checked": ""},
            "mapping_url": {"unchecked": "file:///nowhere/", "checked": ""},
        }  # fmt: skip

    def _rmap(self, instrument: str, kind: str, parkey: tuple[str, ...], choices: Choices) -> str:
        name = f"jwst_{instrument.lower()}_{kind}_{self.number}.rmap"
        suffix = ".asdf" if kind.startswith("pars-") else ".fits"
        header = {"classes": ("Match", "UseAfter"), "derived_from": "made by a test", "file_ext": suffix,
                  "filekind": kind, "filetype": kind, "instrument": instrument, "mapping": "REFERENCE",
                  "name": name, "observatory": "JWST", "parkey": (parkey, DATE), "sha1sum": "SHA1",
                  "suffix": kind, "text_descr": kind}  # fmt: skip
        lines = []
        for values, dates in sorted(choices.items()):
            match = pprint.pformat(values)
            inner = "\n".join(f"        {date!r} : {file!r}," for date, file in sorted(dates.items()))
            lines.append(f"    {match} : UseAfter({{\n{inner}\n    }}),")
        self._text(name, header, "Match({\n" + "\n".join(lines) + "\n})")
        return name

    def _text(self, name: str, header: dict[str, object], selector: str) -> None:
        items = "\n".join(f"    {key!r} : {value!r}," for key, value in sorted(header.items()))
        text = f"header = {{\n{items}\n}}\n\nselector = {selector}\n"
        (self.mappings / name).write_text(with_checksum(text))
