"""Charts of a table's columns: lines, bars, points or a histogram, with axes and a legend, as a PNG."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from .canvas import GLYPH_HEIGHT, GLYPH_WIDTH, Canvas, Colour
from .tables import Column, Table

ChartKind = Literal["line", "bar", "scatter", "histogram"]

WIDTH, HEIGHT = 800, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 20, 50, 50
_INK: Colour = (60, 60, 60)
_GRID: Colour = (225, 225, 225)
_COLOURS: tuple[Colour, ...] = ((31, 119, 180), (214, 100, 20), (44, 140, 60), (170, 50, 120))
_TICKS = 5
_BINS = 20


class Series(msgspec.Struct, frozen=True):
    """Points of one colour. None: no value there."""

    name: str
    points: list[tuple[float, float] | None]


class Chart(msgspec.Struct, frozen=True):
    """`labels`: of the x axis, each at a share of its width, 0 to 1; without any the axis shows its numbers."""

    title: str
    kind: ChartKind
    x_name: str
    series: list[Series]
    labels: list[tuple[float, str]] = []


def chart_of(table: Table, kind: ChartKind, x: Column, ys: Sequence[Column]) -> Chart:
    """`x` of a histogram is the column itself; it has no `ys`."""
    if kind == "histogram":
        return Chart(f"{x.name} (distribution)", "bar", x.name, [_histogram(x)])
    title = f"{', '.join(y.name for y in ys)} by {x.name}"
    if x.kind == "number":
        series = [Series(y.name, _pairs(x.numbers, y.numbers)) for y in ys]
        if kind == "line":
            series = [Series(one.name, [*sorted(filter(None, one.points))]) for one in series]
        return Chart(title, kind, x.name, series)
    places: list[float | None] = [float(place) for place in range(table.rows)]
    last = max(1, table.rows - 1)
    ticks = sorted({round(share * (table.rows - 1) / 3) for share in range(4)})
    labels = [(place / last, x.cells[place]) for place in ticks]
    return Chart(title, kind, x.name, [Series(y.name, _pairs(places, y.numbers)) for y in ys], labels)


def _pairs(xs: list[float | None], ys: list[float | None]) -> list[tuple[float, float] | None]:
    return [None if x is None or y is None else (x, y) for x, y in zip(xs, ys, strict=True)]


def _histogram(column: Column) -> Series:
    low, high = min(column.known), max(column.known)
    width = (high - low) / _BINS or 1.0
    counts = [0] * _BINS
    for number in column.known:
        counts[min(_BINS - 1, int((number - low) / width))] += 1
    return Series("count", [(low + (place + 0.5) * width, float(count)) for place, count in enumerate(counts)])


class _Frame(msgspec.Struct, frozen=True):
    """The part of the canvas inside the axes, and the range of numbers that it shows."""

    left: float
    right: float
    low: float
    high: float

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (point[0] - self.left) / (self.right - self.left) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)
        return x, y


def draw(chart: Chart) -> bytes:
    """The PNG of a chart."""
    points = [point for series in chart.series for point in series.points if point is not None]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    pad = (max(xs) - min(xs)) / (2 * max(1, len(chart.series[0].points) - 1)) if chart.kind == "bar" else 0.0
    left, right = _widened(min(xs) - pad, max(xs) + pad)
    low, high = _widened(min(ys) if chart.kind == "scatter" else min(0.0, *ys), max(ys))
    step = _step(high - low)
    frame = _Frame(left, right, math.floor(low / step) * step, math.ceil(high / step) * step)
    canvas = Canvas(WIDTH, HEIGHT)
    _draw_axes(canvas, chart, frame, step)
    for number, series in enumerate(chart.series):
        _draw_series(canvas, chart, frame, series, number)
    return canvas.png()


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _step(span: float) -> float:
    """A round distance of ticks."""
    size = 10.0 ** math.floor(math.log10(span / _TICKS))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor * _TICKS >= span * 0.999)


def _draw_axes(canvas: Canvas, chart: Chart, frame: _Frame, step: float) -> None:
    canvas.text(_LEFT, 14, chart.title[: (WIDTH - _LEFT) // GLYPH_WIDTH], _INK)
    for tick in range(round((frame.high - frame.low) / step) + 1):
        value = frame.low + tick * step
        _, y = frame.place((frame.left, value))
        canvas.rectangle(_LEFT, round(y), WIDTH - _LEFT - _RIGHT, 1, _GRID)
        label = f"{value:.6g}"
        canvas.text(_LEFT - 8 - len(label) * GLYPH_WIDTH, round(y) - GLYPH_HEIGHT // 2, label, _INK)
    canvas.rectangle(_LEFT, _TOP, 2, HEIGHT - _TOP - _BOTTOM, _INK)
    canvas.rectangle(_LEFT, HEIGHT - _BOTTOM, WIDTH - _LEFT - _RIGHT, 2, _INK)
    shares = [share / 4 for share in range(5)]
    labels = chart.labels or [(share, f"{frame.left + share * (frame.right - frame.left):.4g}") for share in shares]
    for share, label in labels:
        label = label[:16]
        middle = _LEFT + share * (WIDTH - _LEFT - _RIGHT)
        at = min(max(0, round(middle - len(label) * GLYPH_WIDTH / 2)), WIDTH - len(label) * GLYPH_WIDTH)
        canvas.text(at, HEIGHT - _BOTTOM + 10, label, _INK)
    canvas.text((WIDTH - len(chart.x_name) * GLYPH_WIDTH) // 2, HEIGHT - 18, chart.x_name, _INK)


def _draw_series(canvas: Canvas, chart: Chart, frame: _Frame, series: Series, number: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    if len(chart.series) > 1:
        at = _LEFT + number * 180
        canvas.rectangle(at, 32, 10, 10, colour)
        canvas.text(at + 16, 32, series.name[:18], _INK)
    _, ground = frame.place((frame.left, max(frame.low, 0.0)))
    width = max(1, (WIDTH - _LEFT - _RIGHT) // (len(series.points) * (len(chart.series) + 1)))
    before: tuple[float, float] | None = None
    for point in series.points:
        here = None if point is None else frame.place(point)
        if here is not None and chart.kind == "bar":
            top, bottom = sorted((here[1], ground))
            at = round(here[0] + (number - len(chart.series) / 2) * width)
            canvas.rectangle(at, round(top), width, round(bottom - top), colour)
        elif here is not None and chart.kind == "scatter":
            canvas.rectangle(round(here[0]) - 2, round(here[1]) - 2, 4, 4, colour)
        elif here is not None:
            canvas.line(before or here, here, colour)
        before = here
