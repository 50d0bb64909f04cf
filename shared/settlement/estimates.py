"""The charge for work that ended without a usage: a caller who cancels or deletes it has what it delivered. Pure."""

from shared.affinity.pending import PendingRow, PendingWork
from shared.settlement.work_usage import Unreported
from shared.types import BATCH, BATCHES, Usage


def estimate(work: PendingWork, row: PendingRow, end: Unreported) -> Usage:
    """The usage to be charged for the work in this row.

    A batch has delivered its completed requests, and a response the text in its object. What a run has delivered is in
    messages, a stream may still hold what it has not noted, and what nobody knows any more may have been anything: the
    expected answer counts for those, unless more was relayed."""
    if work.kind in BATCHES:
        read, written = round(work.prompt * end.share), round(work.output * end.share)
        return Usage(input_tokens=read, output_tokens=written, service_tier=BATCH, estimated=True, summed=True)
    least = 0 if end.cancelled and work.kind == "response" and not row.streamed else work.output
    return Usage(input_tokens=work.prompt, output_tokens=max(least, row.relayed, end.output), estimated=True)
