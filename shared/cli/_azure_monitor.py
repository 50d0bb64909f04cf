"""Azure Monitor's count of tokens and requests per deployment, through Azure's client."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from azure.core.exceptions import AzureError, HttpResponseError
from azure.monitor.querymetrics.aio import MetricsClient

from shared.billing.reconciliation import Counted, Metrics
from shared.credentials import azure_credential
from shared.errors import StoreUnavailable

NAMESPACE = "Microsoft.CognitiveServices/accounts"
FIELDS = {
    "ProcessedPromptTokens": "input_tokens",
    "GeneratedTokens": "output_tokens",
    "AzureOpenAIRequests": "requests",
}
_DEPLOYMENT = "ModelDeploymentName"
_MAX_ACCOUNTS = 50  # per query, all of one region and subscription
_MAX_SERIES = 1000  # per account; the service's default is 10


class AzureMonitor(NamedTuple):
    """Queries the metrics endpoint of each region. `endpoint` contains `{region}`."""

    endpoint: str
    client_id: str | None

    async def counted(self, accounts: Sequence[tuple[str, str]], begin: datetime, end: datetime) -> Metrics:
        """Counts by (account, deployment), for accounts given as (region, resource id). Raises `StoreUnavailable`."""
        groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for region, resource_id in dict.fromkeys(accounts):
            groups[region, resource_id.split("/")[2].lower()].append(resource_id)
        counts: defaultdict[tuple[str, str], Counted] = defaultdict(Counted)
        credential = azure_credential(self.client_id)
        async with credential:
            for (region, _), resources in groups.items():
                endpoint = self.endpoint.replace("{region}", region.lower().replace(" ", ""))
                async with MetricsClient(endpoint, credential, retry_total=2, **self._options()) as client:
                    for start in range(0, len(resources), _MAX_ACCOUNTS):
                        part = resources[start : start + _MAX_ACCOUNTS]
                        async for key, field, amount in self._query(client, part, (begin, end)):
                            counts[key] = counts[key].plus(field, amount)
        return dict(counts)

    def _options(self) -> dict[str, Any]:
        """The token audience of a sovereign cloud: the endpoint without its region."""
        sovereign = "{region}.metrics." in self.endpoint and not self.endpoint.endswith(".com")
        return {"audience": self.endpoint.replace("{region}.", "")} if sovereign else {}

    async def _query(
        self, client: MetricsClient, resources: list[str], span: tuple[datetime, datetime]
    ) -> AsyncIterator[tuple[tuple[str, str], str, int]]:
        """Yield (account, deployment), a field of `Counted`, and its amount."""
        try:
            results = await client.query_resources(
                resource_ids=resources,
                metric_namespace=NAMESPACE,
                metric_names=list(FIELDS),
                timespan=span,
                granularity=timedelta(hours=1),
                aggregations=["Total"],
                filter=f"{_DEPLOYMENT} eq '*'",
                max_results=_MAX_SERIES,
                # The configuration allows http only for a server on this machine, as the tests use.
                enforce_https=self.endpoint.startswith("https:"),
            )
        except HttpResponseError as error:
            hint = ": the identity lacks the role Monitoring Reader" if error.status_code in (401, 403) else ""
            raise StoreUnavailable(f"Azure Monitor answered {error.status_code}{hint}") from error
        except (AzureError, OSError, ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(f"unreadable answer from Azure Monitor ({type(error).__name__})") from error
        for resource_id, result in zip(resources, results, strict=False):
            for metric in result.metrics:
                for series in metric.timeseries if str(metric.name) in FIELDS else ():
                    names = {str(name).lower(): str(value) for name, value in series.metadata_values.items()}
                    key = (resource_id.lower(), names.get(_DEPLOYMENT.lower(), "-"))
                    yield key, FIELDS[str(metric.name)], round(sum(value.total or 0 for value in series.data))
