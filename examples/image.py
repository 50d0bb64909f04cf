"""An image with partial previews, and an edit of it."""

import base64

from openai import OpenAI

with OpenAI() as client:
    image = b""
    for event in client.images.generate(
        model="gpt-image-2", prompt="a toll gate by the sea", stream=True, partial_images=2
    ):
        image = base64.b64decode(event.b64_json)
        print(event.type, len(image), "bytes")
    edited = client.images.edit(model="gpt-image-2", image=("gate.png", image, "image/png"), prompt="at night")
    for item in edited.data or ():
        print(len(base64.b64decode(item.b64_json or "")), "bytes after the edit")
