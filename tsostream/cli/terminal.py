"""A light curve in characters that redraws while it grows."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tsostream.cli.plot import draw
from tsostream.cli.watching import make_console
from tsostream.live.figures import Figures, duration, main_rows
from tsostream.live.follow import ENDED, Follower
from tsostream.live.overview import Overview
from tsostream.live.pace import Pace

__all__ = ["View", "watch"]

#: batches read between two looks at the keyboard and the screen
_BATCHES: Final = 256
#: units of the time axis, how many make an hour
_UNITS: Final = (("seconds", 3600.0), ("minutes", 60.0), ("hours", 1.0))
_COLOURS: Final = {"complete": "green", "growing": "cyan", "waiting": "dim"}


def watch(follower: Follower, interval: float) -> None:
    """Draw until the run ends; the last picture stays."""
    console = make_console(stderr=False)
    view, pace = View(follower), Pace(interval)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            batches = follower.poll(_BATCHES)
            view.add(batches)
            if not batches:
                view.figures.mark()
                live.update(view.render(console.width, console.height), refresh=True)
                if follower.state in ENDED:
                    return
                time.sleep(pace.rest(waiting=follower.state == "waiting"))


class View:
    """What has been seen of a light curve, and its picture; constant memory.

    Parameters
    ----------
    follower
        Of the light curve.
    """

    def __init__(self, follower: Follower):
        self.follower = follower
        self.figures = Figures()
        self._runs = 0
        self._clear()

    def _clear(self) -> None:
        self.figures.clear()
        self._curve = Overview(1)
        self._level = math.nan
        self._origin = math.nan

    def add(self, batches: list[Any]) -> None:
        """Take rows in."""
        if self.follower.runs != self._runs:
            self._runs = self.follower.runs
            self._clear()
        for batch in batches:
            self.figures.add(batch)
            main = main_rows(batch)
            hours = self._hours(batch, main)
            self._curve.add(hours, batch.column("flux").to_numpy()[main][:, None])

    def _hours(self, batch: Any, main: np.ndarray) -> np.ndarray:
        """Hours since the first row; integration numbers where there are no times."""
        for clock in ("time_bmjd_tdb_mid", "time_mjd_utc_mid"):
            days = batch.column(clock).to_numpy()[main]
            if np.isfinite(days).all():
                if not math.isfinite(self._origin):
                    self._origin = float(days[0])
                return 24.0 * (days - self._origin)
        return batch.column("integration").to_numpy()[main].astype(float)

    def render(self, width: int, height: int) -> RenderableType:
        """Draw everything to fit a terminal of this size."""
        follower = self.follower
        if follower.state == "waiting":
            what = "no rows yet, the scout is measured" if follower.begun else "waiting for the run to begin"
            return Text(f"{follower.path}: {what}", style="dim")
        plot = draw_light_curve(self._curve, max(20, min(width, 160) - 14), max(4, min(24, height - 8)))
        lines = Text("\n".join(plot), no_wrap=True)
        return Group(self._headline(), lines, self._progress(), self._facts(), self._flags())

    def _headline(self) -> Text:
        exposure = self.follower.metadata.get("exposure", {})
        names = (exposure.get(name, "") for name in ("exposure_id", "detector", "exp_type"))
        parts = [
            str(self.follower.path),
            *filter(None, names),
            str(self.follower.metadata.get("target") or ""),
        ]
        return Text(
            " · ".join(part for part in parts if part), style="bold", no_wrap=True, overflow="ellipsis"
        )

    def _progress(self) -> RenderableType:
        figures, total = self.figures, self.follower.total
        state = self.follower.state
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=max(total, 1), completed=figures.rows, complete_style="cyan", finished_style="green"
        )
        grid.add_row(
            Text(state, style=_COLOURS.get(state, "bold yellow")), bar, f"{figures.rows}/{total or '?'}"
        )
        return grid

    def _facts(self) -> Text:
        figures = self.figures
        facts = []
        if self.follower.state == "growing" and math.isfinite(figures.rate):
            facts.append(f"{figures.rate:.{0 if figures.rate >= 10 else 1}f} integrations/s")
            if math.isfinite(left := figures.left(self.follower.last)):
                facts.append(f"{duration(left)} left")
        found, expected = figures.scatter
        text = Text("  " + " · ".join(facts), style="dim")
        if math.isfinite(found):
            text.append(" · " if facts else "")
            style = "green" if found < 1.5 * expected else "yellow"
            text.append(f"scatter {found:.0f} ppm, photon and read noise expect {expected:.0f}", style=style)
        return text

    def _flags(self) -> Text:
        counts = " · ".join(f"{name} {count}" for name, count in self.figures.counts.items())
        return Text("  " + counts, style="dim", no_wrap=True, overflow="ellipsis")


def draw_light_curve(curve: Overview, width: int, height: int) -> list[str]:
    """Draw relative flux over time; points far off are left out, so that the others can be seen."""
    x, flux = curve.x, curve.mean[:, 0]
    good = np.isfinite(flux)
    if not good.any():
        return ["(no flux yet)"]
    x, flux = x[good], flux[good]
    level = float(np.median(flux))
    relative = 100.0 * (flux / level if level else flux)
    low, high = np.percentile(relative, (1, 99))
    margin = 0.5 * (high - low)
    near = (relative >= low - margin) & (relative <= high + margin)
    far = int(np.count_nonzero(~near))
    label = "white light, relative flux [%]" + (f", {far} points off the scale" if far else "")
    unit, factor = next((one for one in _UNITS if np.ptp(x) * one[1] < 200), _UNITS[-1])
    where = f"{unit} since the first integration"
    return draw(factor * x[near], relative[near], width=width, height=height, xlabel=where, ylabel=label)
