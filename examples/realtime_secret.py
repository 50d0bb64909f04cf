"""A short-lived secret, with which a browser opens a realtime session directly with Azure. The gateway does not proxy
WebSockets."""

from openai import OpenAI

with OpenAI() as client:
    secret = client.realtime.client_secrets.create(session={"type": "realtime", "model": "gpt-realtime"})
    print("valid until", secret.expires_at)
