"""A scatter plot of braille dots, with axes, for terminals."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["draw"]

#: bit of each dot of a braille cell, [row, column]
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def draw(
    x: np.ndarray, y: np.ndarray, *, width: int = 76, height: int = 14, xlabel: str = "", ylabel: str = ""
) -> list[str]:
    """Draw points; every cell of text holds 2 × 4 dots.

    Parameters
    ----------
    x, y
        Coordinates; points that are not finite are left out.
    width, height
        Cells of the plot area, axes not counted.
    xlabel, ylabel
        Stand below the axis, and above it.

    Returns
    -------
    list of str
        Lines, top to bottom.
    """
    there = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, float)[there], np.asarray(y, float)[there]
    if not len(x):
        return ["(no finite points to draw)"]
    (left, right, _), (bottom, top, step) = (
        _round_range(x, 6, tight=True),
        _round_range(y, max(2, height // 3)),
    )
    column = np.clip((x - left) / (right - left) * (2 * width - 1), 0, 2 * width - 1).round().astype(int)
    row = np.clip((top - y) / (top - bottom) * (4 * height - 1), 0, 4 * height - 1).round().astype(int)
    cells = np.zeros((height, width), int)
    np.bitwise_or.at(cells, (row // 4, column // 2), _DOTS[row % 4, column % 2])
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = {
        round((top - value) / (top - bottom) * (height - 1)): f"{value:.{digits}f}"
        for value in np.arange(bottom, top + step / 2, step)
    }
    margin = max(map(len, ticks.values()))
    lines = [f"{'':{margin}} {ylabel}"] if ylabel else []
    for number, line in enumerate(cells):
        edge = "┤" if number in ticks else "│"
        dots = "".join(chr(0x2800 + bits) if bits else " " for bits in line)
        lines.append(f"{ticks.get(number, ''):>{margin}} {edge}{dots}")
    axis, labels = _x_axis(left, right, width)
    lines += [f"{'':{margin}} └{axis}", f"{'':{margin}}  {labels}"]
    if xlabel:
        lines.append(f"{'':{margin}}  {xlabel:^{width}}".rstrip())
    return lines


def _round_range(values: np.ndarray, ticks: int, *, tight: bool = False) -> tuple[float, float, float]:
    """Find round limits around the values, and the step between round numbers."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if tight:
        return low, high, step
    return step * math.floor(low / step), step * math.ceil(high / step), step


def _x_axis(left: float, right: float, width: int) -> tuple[str, str]:
    """Draw the axis line with its ticks, and the numbers below them."""
    _, _, step = _round_range(np.array([left, right]), max(2, width // 9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    axis, labels = ["─"] * width, [" "] * (width + 8)
    for value in np.arange(step * math.ceil(left / step), right + 1e-9 * step, step):
        place = round((value - left) / (right - left) * (width - 1))
        axis[place] = "┬"
        text = f"{value + 0.0:.{digits}f}"
        start = max(0, place - len(text) // 2)
        labels[start : start + len(text)] = text
    return "".join(axis), "".join(labels).rstrip()
