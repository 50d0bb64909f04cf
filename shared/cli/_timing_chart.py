"""A chart of durations as SVG: a histogram per model and way, the gateway above the direct way. Pure."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from shared.cli._timing_statistics import quantile

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 180, 100, 84
_BAND, _GAP = 92, 26  # height of a histogram with its labels; space between models
_BARS = 60
_COLORS = {"gateway": "#2563eb", "direct": "#d97706"}
_MARKS = (("p50", 0.5), ("p95", 0.95))


class Group(NamedTuple):
    """Durations of one model by one way, in seconds."""

    model: str
    via: str
    seconds: Sequence[float]


def chart(groups: Sequence[Group], title: str) -> str:
    """Groups of one model stand together. All share one axis, which ends at the slowest 99th percentile; the last bar
    of each has what is beyond."""
    filled = [group for group in groups if group.seconds]
    ends = [quantile(group.seconds, 0.99) or 0.0 for group in filled]
    step = _step(max(ends, default=0.0) / 8 or 0.1)
    axis = _Axis(step, step * max(1, math.ceil(max(ends, default=step) / step - 1e-9)))
    body: list[str] = []
    y, model = _TOP, None
    for group in filled:
        if model not in (None, group.model):
            y += _GAP
        if model != group.model:
            body.append(_text(12, y + 30, group.model, "model"))
        model = group.model
        body += _histogram(group, axis, y)
        y += _BAND
    height = y + 60
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title, quote=True)}">\n<title>{escape(title)}</title>\n'
        f'<style>{_STYLE}</style>\n<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    )
    lines = [head, _text(12, 30, title, "title"), *_legend(filled), *axis.drawn(y), *body, "</svg>"]
    return "\n".join(lines) + "\n"


_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2937}.title{font-size:18px;font-weight:600}.model{font-weight:600}"
    ".small{font-size:11px;fill:#4b5563}.grid{stroke:#e5e7eb}.base{stroke:#9ca3af}.mark{stroke-width:2}"
)


class _Axis(NamedTuple):
    """Seconds from 0 to `end`, with a line each `step`."""

    step: float
    end: float

    def x(self, seconds: float) -> float:
        return _LEFT + min(seconds, self.end) / self.end * (_WIDTH - _LEFT - _RIGHT)

    def drawn(self, bottom: int) -> Iterator[str]:
        for number in range(round(self.end / self.step) + 1):
            x, label = self.x(number * self.step), f"{number * self.step:.10g} s"
            yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>'
            yield _text(x, bottom + 18, label, "small", "middle")
        yield _text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 40, "duration of a call", "small", "middle")


def _histogram(group: Group, axis: _Axis, y: int) -> Iterator[str]:
    counts = [0] * _BARS
    for seconds in group.seconds:
        counts[min(int(seconds / axis.end * _BARS), _BARS - 1)] += 1
    base, room, width = y + _BAND - 20, _BAND - 52, (_WIDTH - _LEFT - _RIGHT) / _BARS
    color = _COLORS.get(group.via, "#6b7280")
    yield f'<line class="base" x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}"/>'
    for number, count in enumerate(counts):
        if count:
            height = count / max(counts) * room
            x, tip = _LEFT + number * width, f"{count} of {len(group.seconds)} calls, {group.via}"
            yield (
                f'<rect x="{x + 0.5:.1f}" y="{base - height:.1f}" width="{width - 1:.1f}" height="{height:.1f}" '
                f'fill="{color}" fill-opacity="0.55"><title>{escape(tip)}</title></rect>'
            )
    for line, (name, share) in enumerate(_MARKS):
        seconds, top = quantile(group.seconds, share) or 0.0, base - room - 24 + 12 * line
        x = axis.x(seconds)
        yield f'<line class="mark" stroke="{color}" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{base}"/>'
        yield _text(x + 4, top + 10, f"{name} {_duration(seconds)}", "small")
    beyond = sum(seconds > axis.end for seconds in group.seconds)
    yield _text(12, base - 6, f"{group.via}, {len(group.seconds)} calls", "small")
    if beyond:
        yield _text(
            _WIDTH - _RIGHT, base + 13, f"{beyond} beyond, up to {_duration(max(group.seconds))}", "small", "end"
        )


def _legend(groups: Sequence[Group]) -> Iterator[str]:
    x = 12
    for via in dict.fromkeys(group.via for group in groups):
        yield f'<rect x="{x}" y="46" width="14" height="14" fill="{_COLORS.get(via, "#6b7280")}" fill-opacity="0.55"/>'
        yield _text(x + 20, 58, via)
        x += 100
    yield _text(
        x + 20, 58, "Bars: calls by duration. Lines: half of the calls (p50) and 95 of 100 (p95) took less.", "small"
    )


def _step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least * (1 - 1e-9))


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
