"""Chat completions that are kept where they were made: found by what was noted with them, and deleted."""

from openai import OpenAI

with OpenAI() as client:
    kept = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Remember this."}],
        store=True,
        metadata={"use": "example"},
    )
    print([found.id for found in client.chat.completions.list(metadata={"use": "example"})])
    print([message.content for message in client.chat.completions.messages.list(kept.id)])
    client.chat.completions.delete(kept.id)
