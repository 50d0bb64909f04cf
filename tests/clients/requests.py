"""The requests that clients send, by their documentation and their source, for those that are not run themselves."""

import json
from typing import Any, NamedTuple

GATEWAY_MODEL, EMBEDDING = "mini", "embed"
CHAT = {"model": GATEWAY_MODEL, "messages": [{"role": "user", "content": "Hello"}]}
_STREAM = {**CHAT, "stream": True}
_COUNTED = {**_STREAM, "stream_options": {"include_usage": True}}
_TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
_DATED = f"/openai/deployments/{GATEWAY_MODEL}/chat/completions?api-version="
_MARK = b"\xef\xbb\xbf"


class ClientRequest(NamedTuple):
    """`page`: that of the client below docs/clients. `key_in`: the header of the key. `operation`, `system`, `user`: as
    the record has them."""

    page: str
    client: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012 - of a tuple
    key_in: str = "authorization"
    operation: str = "chat.completions"
    system: str = ""
    user: str = ""

    @property
    def data(self) -> bytes | None:
        return self.body if isinstance(self.body, bytes | None) else json.dumps(self.body).encode()


_OF_WEBUI = {
    "X-OpenWebUI-User-Name": "Ada%20Lovelace",
    "X-OpenWebUI-User-Id": "7f5c",
    "X-OpenWebUI-User-Email": "ada@example.com",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c1",
}
_OF_NET = {"user-agent": "OpenAI/2.12.0 (.NET 10.0.0; Linux)", "accept": "application/json"}

REQUESTS = (
    ClientRequest("cursor", "Cursor: Verify", "GET", "/v1/models", operation="models.list"),
    ClientRequest("cursor", "Cursor: agent", "POST", "/v1/chat/completions", {**_STREAM, "tools": _TOOLS, "user": "u"}),
    ClientRequest(
        "open-webui", "Open WebUI 0.6: models", "GET", "/v1/models", None, _OF_WEBUI, operation="models.list"
    ),
    ClientRequest("open-webui", "Open WebUI 0.6", "POST", "/v1/chat/completions", _STREAM, _OF_WEBUI, user="7f5c"),
    ClientRequest(
        *("open-webui", "Open WebUI 0.6: documents", "POST", "/v1/embeddings"),
        {"input": ["one", "two"], "model": EMBEDDING},
        _OF_WEBUI,
        operation="embeddings",
        user="7f5c",
    ),
    ClientRequest("librechat", "LibreChat: fetch", "GET", "/v1/models", operation="models.list"),
    ClientRequest(
        *("librechat", "LibreChat", "POST", "/v1/chat/completions"),
        {**_COUNTED, "user": "in-the-body"},
        {"X-OpenWebUI-User-Id": "from-a-header"},
        user="from-a-header",
    ),
    ClientRequest(
        *("librechat", "LibreChat: Use Responses API", "POST", "/v1/responses"),
        {"model": GATEWAY_MODEL, "input": [{"role": "user", "content": "Hello"}], "stream": True, "store": False},
        operation="responses.create",
    ),
    ClientRequest("n8n", "n8n 1: test of the credential", "GET", "/v1/models", operation="models.list"),
    ClientRequest(
        "n8n", "n8n 1: OpenAI Chat Model", "POST", "/v1/chat/completions", CHAT, {"systemId": "flow 7"}, system="flow 7"
    ),
    ClientRequest("n8n", "n8n 1: Azure OpenAI", "POST", f"{_DATED}2024-10-21", {**CHAT, "n": 1}, key_in="api-key"),
    ClientRequest(
        *("langchain", "langchain-openai 1: embeddings as tokens", "POST", "/v1/embeddings"),
        {"input": [[9906], [1917]], "model": EMBEDDING, "encoding_format": "base64"},
        operation="embeddings",
    ),
    ClientRequest("langchain", "langchain-openai 1", "POST", "/v1/chat/completions", _COUNTED),
    ClientRequest("langchain", "AzureChatOpenAI", "POST", f"{_DATED}2024-10-21", _STREAM, key_in="api-key"),
    ClientRequest(
        *("dotnet", "OpenAI 2: chat", "POST", "/v1/chat/completions"),
        {**_COUNTED, "max_completion_tokens": 100},
        {**_OF_NET, "x-ms-client-request-id": "f6b5"},
    ),
    ClientRequest(
        *("dotnet", "Azure.AI.OpenAI 2: chat", "POST", f"{_DATED}2025-04-01-preview"),
        {"messages": CHAT["messages"], "max_tokens": 100},
        {**_OF_NET, "x-ms-client-request-id": "f6b6"},
        key_in="api-key",
    ),
    ClientRequest(
        *("dotnet", "HttpClient: a body with a byte order mark", "POST", "/v1/chat/completions"),
        _MARK + json.dumps(CHAT).encode(),
        {"content-type": "application/json; charset=utf-8"},
    ),
    ClientRequest("foundry-agents", "Agent Service: discovery", "GET", "/v1/models", operation="models.list"),
    ClientRequest(
        "foundry-agents", "Agent Service: one model", "GET", f"/v1/models/{GATEWAY_MODEL}", operation="models.get"
    ),
    ClientRequest(
        *("foundry-agents", "Agent Service: a step", "POST", "/v1/chat/completions"),
        {**_COUNTED, "tools": _TOOLS, "tool_choice": "auto", "parallel_tool_calls": True},
    ),
    ClientRequest("foundry-agents", "Agent Service: dated", "POST", f"{_DATED}2024-10-21", _STREAM, key_in="api-key"),
)
