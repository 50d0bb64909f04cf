"""`timing`: durations of calls through the gateway, beside those of direct calls."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.azure_openai.backend_requests import V1_SCOPE
from shared.billing.report import as_csv
from shared.cli import _timing_calls as timing_calls
from shared.cli import _timing_summary as summary
from shared.cli._terminal import AsJson, fail, named_models, show, variable
from shared.cli._timing_calls import Job, Question, TimedCall
from shared.cli._timing_chart import chart
from shared.cli._timing_statistics import FEWEST, quantile
from shared.credentials import TokenCache, azure_credential
from shared.errors import CredentialUnavailable

if TYPE_CHECKING:
    import openai  # imported where it is used, as in `_timing_calls`

commands = typer.Typer()
_INTERRUPTED = 130  # exit code after Ctrl-C


class _Plan(msgspec.Struct, frozen=True):
    """The calls to measure. `models`: (name, deployment of the direct way). `direct` "": through the gateway only."""

    models: list[tuple[str, str]]
    calls: int
    gateway: str
    direct: str
    question: Question
    concurrency: int
    timeout: float

    def jobs(self, calls: int) -> list[Job]:
        return list(timing_calls.jobs(self.models, calls, direct=bool(self.direct)))


@commands.command("timing")
def measure_times(
    models: Annotated[
        str,
        typer.Option(help="Chat models, separated by commas; NAME=DEPLOYMENT if the direct resource has another name."),
    ],
    calls: Annotated[int, typer.Option(min=1, max=100_000, help="Calls of each model, each way.")] = 50,
    gateway: Annotated[str, typer.Option(envvar="GATEWAY_URL", help="The gateway's URL.")] = "",
    direct: Annotated[str, typer.Option(help="A resource to call directly: https://NAME.openai.azure.com.")] = "",
    stream: Annotated[bool, typer.Option("--stream", help="Stream, and take the time of the first token.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=100, help="Calls at a time.")] = 1,
    prompt: Annotated[str, typer.Option(help="The question.")] = "Name three rivers, and one city on each.",
    output_tokens: Annotated[int, typer.Option(min=1, max=128_000, help="Maximum tokens of an answer.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds after which a call has failed.")] = 120.0,
    csv: Annotated[Path | None, typer.Option(help="Write a line per call into this file.")] = None,
    svg: Annotated[Path | None, typer.Option("--chart", help="Draw the distributions into this SVG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how long calls take through the gateway and, with --direct, without it.

    Calls each model --calls times each way, and once more before to open connections; all of it costs tokens. The ways
    take turns. Ctrl-C ends the calls and shows what was measured.

    The gateway's key is read from OPENAI_API_KEY. The direct resource takes the key in AZURE_OPENAI_API_KEY, or else
    the identity of `az login`.

    Times are those of a program that uses OpenAI's Python client. What the client itself takes is measured at the
    beginning and shown: some milliseconds a call, more with a high --concurrency, and the same in both ways."""
    for option, file in (("--csv", csv), ("--chart", svg)):
        if file is not None and not file.absolute().parent.is_dir():
            fail(f"{option}: expected a file in a folder that exists, got {file}")
    if not (named := named_models(models)) or "" in named:
        fail(f"--models: expected names of models, separated by commas, got {models!r}")
    plan = _Plan(
        models=list(named.items()),
        calls=calls,
        gateway=_url("--gateway", gateway),
        direct=_url("--direct", direct) if direct else "",
        question=Question(prompt, output_tokens, stream),
        concurrency=concurrency,
        timeout=timeout,
    )
    key = variable("OPENAI_API_KEY")
    if not key:
        fail("OPENAI_API_KEY: expected a key of the gateway in this variable")
    run = _Run(plan, key)
    try:
        asyncio.run(run.measure())
    except KeyboardInterrupt:
        run.interrupted = True
    except CredentialUnavailable as error:
        fail(f"--direct: {error.details}. Sign in with `az login`, or set AZURE_OPENAI_API_KEY")
    run.save(csv, svg)
    run.show(as_json)
    if run.interrupted:
        raise typer.Exit(_INTERRUPTED)
    if all(call.problem for call in run.calls):
        raise typer.Exit(1)


def _url(option: str, url: str) -> str:
    if not url.startswith(("https://", "http://")):
        where = " here or in GATEWAY_URL" if option == "--gateway" else ""
        fail(f"{option}: expected a URL that begins with https://{where}, got {url!r}")
    return url.rstrip("/")


class _Run:
    """A measurement, and what it has found so far. `own`: seconds that the client itself takes per call."""

    def __init__(self, plan: _Plan, key: str) -> None:
        self._plan = plan
        self._key = key
        self.own: list[float] = []
        self.calls: list[TimedCall] = []
        self.errors = 0
        self.interrupted = False

    async def measure(self) -> None:
        """Raises `CredentialUnavailable`."""
        plan = self._plan
        async with _clients(plan, self._key) as clients:

            async def call(job: Job) -> TimedCall:
                return await timing_calls.timed(clients[job.via], job, plan.question)

            self.own = await timing_calls.own_time(plan.question, plan.concurrency)
            await timing_calls.make(plan.jobs(1), plan.concurrency, call, lambda _: None)
            with _progress() as progress:
                task = progress.add_task("calls", total=plan.calls * len(plan.jobs(1)), errors=0)

                def done(call: TimedCall) -> None:
                    self.calls.append(call)
                    self.errors += bool(call.problem)
                    progress.update(task, advance=1, errors=self.errors)

                await timing_calls.make(plan.jobs(plan.calls), plan.concurrency, call, done)

    def save(self, csv: Path | None, svg: Path | None) -> None:
        if csv is not None:
            csv.write_text(as_csv(summary.CALL_HEADS, summary.call_rows(self.calls)))
        if svg is not None:
            how = "streamed, " if self._plan.question.stream else ""
            title = f"Durations of calls ({how}{self._plan.concurrency} at a time)"
            svg.write_text(chart(summary.groups(self.calls), title))

    def show(self, as_json: bool) -> None:
        own = quantile(self.own, 0.5)
        parts = {
            "summary": summary.summary(self.calls),
            "differences": summary.differences(self.calls),
            "failures": summary.failures(self.calls),
        }
        if as_json:
            about = {"client_p50_ms": own and round(own * 1000, 1), "interrupted": self.interrupted}
            print(json.dumps({**parts, **about}, indent=2))
            return
        for rows in filter(None, parts.values()):
            show(rows, [head for head in rows[0] if any(row[head] is not None for row in rows)], False)
        if self.interrupted:
            print(f"Interrupted: {len(self.calls)} calls were measured.")
        if own is not None:
            print(f"Of each time, the client takes about {own * 1000:.1f} ms itself, in both ways alike.")
        if parts["differences"]:
            print(f"from … to: the interval of 95 % confidence (bootstrap), for at least {FEWEST} calls each way.")


@asynccontextmanager
async def _clients(plan: _Plan, key: str) -> AsyncIterator["dict[str, openai.AsyncOpenAI]"]:
    """The clients by way. They do not retry: each call is one request. Raises `CredentialUnavailable`."""
    import openai

    options: dict[str, Any] = {"max_retries": 0, "timeout": plan.timeout}
    async with AsyncExitStack() as stack:
        client = openai.AsyncOpenAI(base_url=f"{plan.gateway}/v1", api_key=key, **options)
        clients = {"gateway": await stack.enter_async_context(client)}
        if plan.direct:
            secret: str | Callable[[], Awaitable[str]] | None = variable("AZURE_OPENAI_API_KEY")
            if secret is None:
                tokens = TokenCache(partial(azure_credential, None))
                stack.push_async_callback(tokens.close)
                secret = partial(_token, tokens)
                await secret()
            client = openai.AsyncOpenAI(base_url=f"{plan.direct}/openai/v1", api_key=secret, **options)
            clients["direct"] = await stack.enter_async_context(client)
        yield clients


async def _token(tokens: TokenCache) -> str:
    return (await tokens.header(V1_SCOPE)).removeprefix("Bearer ")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[errors]} errors"), console=Console(stderr=True))
