"""A short-lived secret with which a browser may open a realtime session with Azure itself: WebSockets do not pass the
gateway."""

from openai import OpenAI

with OpenAI() as client:
    secret = client.realtime.client_secrets.create(session={"type": "realtime", "model": "gpt-realtime"})
    print("valid until", secret.expires_at)
