"""Stored chat completions: list by metadata, read messages, delete."""

from openai import OpenAI

with OpenAI() as client:
    stored = client.chat.completions.create(
        model="gpt-5.4-mini",
        messages=[{"role": "user", "content": "Remember this."}],
        store=True,
        metadata={"use": "example"},
    )
    print([item.id for item in client.chat.completions.list(metadata={"use": "example"})])
    print([message.content for message in client.chat.completions.messages.list(stored.id)])
    client.chat.completions.delete(stored.id)
