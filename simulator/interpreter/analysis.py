"""Answers of the code interpreter to questions about tables: what they are, their numbers, their charts.

The code that an answer shows is what a model would have run. It is not run: the same is computed here.
"""

import re
import statistics
from collections.abc import Sequence

import msgspec

from .charts import ChartKind, chart_of, draw
from .tables import Column, Table, averaged, mentioned

_DRAW = re.compile(
    r"\b(plot|chart|graph|draw|diagram|histogram|distribution|scatter|visuali[sz]e)|圖|畫|視覺化", re.IGNORECASE
)
_SAVE = re.compile(r"\b(save|export|download|as a csv|to a csv|csv file of)\b|下載|匯出|存成", re.IGNORECASE)
_DESCRIBE = re.compile(
    r"\b(what|which|describe|summar\w*|analy[sz]\w*|explain|statistic\w*|mean|average|median|maximum|minimum|highest|"
    r"lowest|correlat\w*|columns?|rows?|look at|tell)\b|什麼|甚麼|分析|描述|說明|摘要|統計|平均|欄位",
    re.IGNORECASE,
)
_KINDS: tuple[tuple[re.Pattern[str], ChartKind], ...] = (
    (re.compile(r"histogram|distribution|直方|分布", re.IGNORECASE), "histogram"),
    (re.compile(r"scatter|against|versus|\bvs\b|curve|散佈|散點|曲線", re.IGNORECASE), "scatter"),
    (re.compile(r"\bbars?\b|長條|柱狀", re.IGNORECASE), "bar"),
)
_QUARTILES = ("25%", "50%", "75%")


class MadeFile(msgspec.Struct, frozen=True):
    name: str
    data: bytes
    is_image: bool = False


class Finding(msgspec.Struct, frozen=True):
    """The findings of a piece of code. `logs`: what it printed; `text`: what the model makes of it."""

    code: str
    logs: str
    text: str
    files: tuple[MadeFile, ...] = ()


def find(question: str, tables: Sequence[Table]) -> Finding | None:
    """The answer to a question about the last table, or about one that it names; None if it asks for nothing of the
    kind."""
    if not tables:
        return None
    named = [table for table in tables if table.filename.lower() in question.lower()]
    table = (named or list(tables))[-1]
    if _DRAW.search(question) and table.of("number"):
        return _drawn(question, table)
    if _DESCRIBE.search(question) or _SAVE.search(question):
        return _described(table, save=bool(_SAVE.search(question)))
    return None


def _drawn(question: str, table: Table) -> Finding:
    kind: ChartKind = next((kind for pattern, kind in _KINDS if pattern.search(question)), "line")
    x, ys = _axes(question, table, kind)
    name = f"{'_'.join(column.name for column in (ys or [x]))}_{kind}.png"
    name = re.sub(r"[^\w.-]", "_", name)
    code = f"{_loading(table)}import matplotlib.pyplot as plt\n"
    grouped = kind == "bar" and x.kind == "text" and len(set(x.cells)) < table.rows
    charted = averaged(table, x, ys) if grouped else table
    if grouped:
        code += f"df = df.groupby({x.name!r})[{[y.name for y in ys]!r}].mean().reset_index()\n"
        x, *ys = charted.columns
    picture = MadeFile(name, draw(chart_of(charted, kind, x, ys)), is_image=True)
    if kind == "histogram":
        code += f"df[{x.name!r}].plot.hist(bins=20)\n"
    else:
        code += f"df.plot(kind={kind!r}, x={x.name!r}, y={[y.name for y in ys]!r})\n"
    code += f"plt.savefig('/mnt/data/{name}')\n"
    subject = f"{', '.join(y.name for y in ys)} by {x.name}" if ys else f"the distribution of {x.name}"
    text = f"Here is a {kind} chart of {subject}, from {table.rows} rows of {table.filename}."
    return Finding(code, "", text, (picture,))


def _axes(question: str, table: Table, kind: ChartKind) -> tuple[Column, list[Column]]:
    """The columns of the x axis and of the y axis: those that the question names, else the first ones that fit."""
    named = [column for _, column in mentioned(question, table.columns)]
    numbers = [column for column in named if column.kind == "number"] or table.of("number")
    others = [column for column in named if column.kind != "number"] or [*table.of("time"), *table.of("text")]
    if kind == "histogram":
        return numbers[0], []
    if (kind == "scatter" or not others) and len(numbers) > 1:  # the first one against the second
        return numbers[1], numbers[:1]
    if others:
        return others[0], numbers[:4]
    return numbers[0], numbers[:1]


def _described(table: Table, *, save: bool) -> Finding:
    numbers = table.of("number")
    lines = [[column.name, *_statistics(column)] for column in numbers]
    heads = ["", "count", "mean", "std", "min", *_QUARTILES, "max"]
    logs = f"{table.rows} rows, {len(table.columns)} columns\n"
    logs += "".join(f"{column.name}: {column.kind}\n" for column in table.columns) + _aligned([heads, *lines])
    code = f"{_loading(table)}print(df.shape, df.dtypes)\nprint(df.describe().T)\n"
    files: tuple[MadeFile, ...] = ()
    text = _in_words(table)
    if save:
        name = f"{table.name}_summary.csv"
        rows = [["column", *heads[1:]], *lines]
        files = (MadeFile(name, "".join(",".join(row) + "\n" for row in rows).encode()),)
        code += f"df.describe().T.to_csv('/mnt/data/{name}')\n"
        text += " The summary is in the file."
    return Finding(code, logs, text, files)


def _loading(table: Table) -> str:
    return f"import pandas as pd\ndf = pd.read_csv('/mnt/data/{table.filename}')\n"


def _statistics(column: Column) -> list[str]:
    known = column.known
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    quartiles = statistics.quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
    values = (statistics.fmean(known), spread, min(known), *quartiles, max(known))
    return [str(len(known)), *(f"{value:.6g}" for value in values)]


def _in_words(table: Table) -> str:
    sentences = [f"{table.filename} has {table.rows} rows and {len(table.columns)} columns."]
    sentences += [f"{column.name} goes from {min(column.cells)} to {max(column.cells)}." for column in table.of("time")]
    for column in table.of("number"):
        known = column.known
        sentences.append(f"{column.name}: {statistics.fmean(known):.2f} on average, {min(known):g} to {max(known):g}.")
    if (pair := _strongest(table)) is not None:
        one, other, strength = pair
        sentences.append(f"{one} goes with {other} (correlation {strength:.2f}).")
    return " ".join(sentences)


def _strongest(table: Table) -> tuple[str, str, float] | None:
    """The two columns with the strongest correlation."""
    correlations = list[tuple[str, str, float]]()
    numbers = table.of("number")
    for place, one in enumerate(numbers):
        for other in numbers[place + 1 :]:
            pairs = [(a, b) for a, b in zip(one.numbers, other.numbers, strict=True) if a is not None and b is not None]
            xs, ys = [a for a, _ in pairs], [b for _, b in pairs]
            if len(set(xs)) > 1 and len(set(ys)) > 1:
                correlations.append((one.name, other.name, statistics.correlation(xs, ys)))
    return max(correlations, key=lambda pair: abs(pair[2]), default=None)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + "\n" for row in rows)
