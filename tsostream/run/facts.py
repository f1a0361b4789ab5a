"""Running counts of what was written, for the footer of the output."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from tsostream.records import Quality, RowPair, column_values
from tsostream.run.ready import Ready

__all__ = ["Facts"]


class Facts:
    """Running counts, for the footer; constant memory."""

    def __init__(self) -> None:
        self.rows = 0
        self.integrations = 0
        self.missing = 0
        self.bad_rows = 0
        self.flags = 0
        self.unreadable = 0
        self._unreadable_first: list[int] = []
        self._tail: deque[tuple[float, float]] = deque(maxlen=4096)
        self._head: list[tuple[float, float]] = []

    def add(self, pair: RowPair) -> None:
        """Count a batch."""
        self.rows += pair.light_curve.num_rows
        # what is told of integrations is that of their first series
        batch = pair.main
        self.integrations += batch.num_rows
        self.missing += batch.num_rows - int(np.count_nonzero(column_values(batch, "present")))
        failed = (column_values(batch, "quality") & int(Quality.READ_FAILED)) != 0
        if failed.any():
            numbers = np.unique(column_values(batch, "integration")[failed]).tolist()
            self.unreadable += len(numbers)
            self._unreadable_first += numbers[: 10 - len(self._unreadable_first)]
        flux = column_values(batch, "flux")
        self.bad_rows += int(np.count_nonzero(~np.isfinite(flux)))
        self.flags |= int(np.bitwise_or.reduce(column_values(batch, "time_flag"), initial=0))
        pairs = list(zip(column_values(batch, "x").tolist(), column_values(batch, "y").tolist(), strict=True))
        self._tail.extend(pairs)
        if len(self._head) < 4096:
            self._head.extend(pairs)

    def describe(self, ready: Ready, seconds: dict[str, float]) -> dict[str, Any]:
        """Metadata known at the end."""
        warnings = []
        if self.integrations:
            warnings = self._drift()
        if self.unreadable:
            listed = ", ".join(map(str, self._unreadable_first)) + (", …" if self.unreadable > 10 else "")
            one = self.unreadable == 1
            warnings.append(
                f"{self.unreadable} integration{' was' if one else 's were'} not readable (READ_FAILED): {listed}"
            )
        if self.bad_rows > self.missing:
            warnings.append(
                f"{self.bad_rows - self.missing} integrations have no flux (NaN); see their quality bits"
            )
        return {
            "rows": self.rows,
            "missing_integrations": self.missing,
            "rows_without_flux": self.bad_rows,
            "time_flags_seen": self.flags,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "step_seconds": {name: round(value, 3) for name, value in ready.chain.step_seconds().items()},
            "warnings": warnings,
        }

    def _drift(self) -> list[str]:
        """Compare the source's position in the last tenth with the run so far (templates hold for one place)."""
        last = np.array(list(self._tail)[-max(1, min(self.integrations // 10, 4096)) :])
        first = np.array(self._head[: max(1, min(self.integrations // 2, 4096))])
        lines = []
        for axis, name in enumerate("xy"):
            a, b = first[:, axis], last[:, axis]
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            if len(a) < 5 or len(b) < 5:
                continue
            error = np.hypot(np.std(a) / np.sqrt(len(a)), np.std(b) / np.sqrt(len(b)))
            moved = abs(float(np.mean(b) - np.mean(a)))
            if moved > 3 * error and moved > 0.02:
                lines.append(
                    f"the source moved by {moved:.3f} px along {name} between the first half and the last tenth of the "
                    "run: the scout's template is of the mean position"
                )
        return lines
