"""A conversation, which stores its items, so that the client need not resend them."""

from openai import OpenAI

with OpenAI() as client:
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "My name is Ada."}]
    )
    answer = client.responses.create(model="gpt-5.4-mini", input="What is my name?", conversation=conversation.id)
    print(answer.output_text)
    print([item.type for item in client.conversations.items.list(conversation.id, order="asc")])
    client.conversations.delete(conversation.id)
