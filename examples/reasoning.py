"""An answer that is empty because reasoning took all its tokens: how it comes about, how to see it, and what helps."""

from openai import OpenAI
from openai.types.chat import ChatCompletion

MODEL = "gpt-5.4-mini"
QUESTION = "Three ships sail at three tides. Which one is last?"


def ran_out(answer: ChatCompletion) -> bool:
    """True if reasoning took all tokens: the answer was cut before its first word."""
    choice, usage = answer.choices[0], answer.usage
    details = usage.completion_tokens_details if usage else None
    reasoned = bool(details and details.reasoning_tokens)
    return choice.finish_reason == "length" and not choice.message.content and reasoned


with OpenAI() as client:
    bound = 10  # for reasoning and answer together, not for the answer alone
    while True:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=bound
        )
        answer = raw.parse()
        spent = answer.usage.completion_tokens if answer.usage else 0
        if not ran_out(answer):
            break
        print(f"at most {bound} tokens: an empty answer for {spent} tokens")
        print("  ", raw.headers.get("x-gateway-warning", "no warning"))
        bound *= 4
    print(f"at most {bound} tokens: {answer.choices[0].message.content!r} for {spent} tokens")

    # Less thought leaves more for the answer.
    quick = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_completion_tokens=10,
        reasoning_effort="none",
    )
    print(f"without reasoning: {quick.choices[0].message.content!r}")

    response = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
    print("a response says it by itself:", response.status, response.incomplete_details)

    # A stream's end says it, too: no text has come before this reason.
    text, reason = "", ""
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=10, stream=True
    )
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    print("a stream:", "empty" if reason == "length" and not text else text)
