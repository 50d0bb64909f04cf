"""A chat completion, whole and streamed."""

from openai import OpenAI

with OpenAI() as client:
    answer = client.chat.completions.create(
        model="gpt-5.4-mini", messages=[{"role": "user", "content": "Who pays at the gate?"}]
    )
    print(answer.choices[0].message.content)

    stream = client.chat.completions.create(
        model="gpt-5.4-mini", messages=[{"role": "user", "content": "Say it again, slowly."}], stream=True
    )
    for chunk in stream:
        for choice in chunk.choices:  # Azure's first chunk has no choices
            print(choice.delta.content or "", end="", flush=True)
    print()
