"""Multipart bodies that two readers may read differently."""

END = b"--b--\r\n"
USUAL = "multipart/form-data; boundary=b"


def part(head: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b"--b\r\n" + head + b"\r\n" + more + b"\r\n" + value + b"\r\n"


def disposition(parameters: bytes) -> bytes:
    return b"Content-Disposition: form-data; " + parameters


def hostile(field: str, value: bytes) -> dict[str, tuple[str, bytes]]:
    """By what is odd about it: the content-type and the body of a form that hides a field, or seems to have it."""
    written = field.encode()
    name = disposition(b'name="' + written + b'"')
    other = disposition(b'name="other"')
    plain = part(name, value)

    def named(parameters: bytes) -> tuple[str, bytes]:
        return USUAL, part(disposition(parameters), value) + END

    head, tail = written[:-1], written[-1:]
    return {
        "two boundaries, the first used": ("multipart/form-data; boundary=b; boundary=c", plain + END),
        "two boundaries, the second used": ("multipart/form-data; boundary=c; boundary=b", plain + END),
        "an encoded boundary": ("multipart/form-data; boundary=c; boundary*=utf-8''b", plain + END),
        "a boundary in pieces": ("multipart/form-data; boundary*0=b", plain + END),
        "an escape in the boundary": ('multipart/form-data; boundary="\\b"', plain + END),
        "another parameter": ("multipart/form-data; boundary=b; start=x", plain + END),
        "another type": ("multipart/form-data, multipart/mixed; boundary=b", plain + END),
        "an encoded name": named(b"name*=utf-8''" + written),
        "a name and an encoded one": named(b"name=\"x\"; name*=utf-8''" + written),
        "a name in pieces": named(b'name*0="' + head + b'"; name*1="' + tail + b'"'),
        "an escape in the name": named(b'name="' + head + b"\\" + tail + b'"'),
        "a percent in the name": named(b'name="' + head + b"%%%02x" % tail[0] + b'"'),
        "two names": named(b'name="x"; name="' + written + b'"'),
        "a name in upper case": (USUAL, part(disposition(b'name="' + written.upper() + b'"'), value) + plain + END),
        "a name in upper case alone": named(b'name="' + written.upper() + b'"'),
        "an index behind the name": named(b'name="' + written + b'[]"'),
        "single quotes": named(b"name='" + written + b"'"),
        "an empty name": named(b'name=""; name="' + written + b'"'),
        "a zero in the name": named(b'name="' + written + b'\0"'),
        "a parameter in upper case": named(b'NAME="' + written + b'"'),
        "a name in the file name": named(b'filename="; name=\\"' + written + b'\\""; name="other"'),
        "a field as a file": named(b'name="' + written + b'"; filename="a.txt"'),
        "an encoded file name alone": named(b'name="' + written + b"\"; filename*=utf-8''a"),
        "a preamble": (USUAL, b"hello\r\n" + plain + END),
        "a preamble like a boundary": (USUAL, b"--bx\r\n\r\n" + plain + END),
        "a line end in front": (USUAL, b"\r\n" + plain + END),
        "a bare line feed in front": (USUAL, b"\n" + plain + END),
        "a part behind the end": (USUAL, part(other, b"x") + END + plain + END),
        "a text behind the end": (USUAL, plain + END + b"hello"),
        "no end": (USUAL, plain),
        "an end within a boundary": (USUAL, plain + b"--b-"),
        "bare line feeds": (USUAL, plain.replace(b"\r\n", b"\n") + END),
        "bare line feeds behind the head": (USUAL, plain.replace(b"\r\n\r\n", b"\n\n") + END),
        "a boundary behind a bare line feed": (USUAL, part(other, b"x")[:-2] + b"\n" + plain + END),
        "a boundary behind a bare return": (USUAL, part(other, b"x")[:-2] + b"\r" + plain + END),
        "a boundary right behind a head": (USUAL, b"--b\r\n" + other + b"\r\n\r\n" + plain + END),
        "blanks behind a boundary": (USUAL, plain.replace(b"--b\r\n", b"--b  \r\n") + END),
        "a folded head": (USUAL, part(b'Content-Disposition: form-data;\r\n name="' + written + b'"', value) + END),
        "two dispositions": (USUAL, part(other + b"\r\n" + name, value) + END),
        "an unknown header": (USUAL, part(other, value, b'X-A: name="' + written + b'"\r\n') + END),
        "a blank before the colon": (USUAL, part(name.replace(b":", b" :"), value) + END),
        "no disposition": (USUAL, part(b"Content-Type: text/plain", value) + plain + END),
        "an attachment": (USUAL, part(name.replace(b"form-data", b"attachment"), value) + END),
        "base64": (USUAL, part(name, value, b"Content-Transfer-Encoding: base64\r\n") + END),
        "another charset": (USUAL, part(name, value, b"Content-Type: text/plain; charset=utf-16\r\n") + END),
        "a field that names a charset": (USUAL, part(disposition(b'name="_charset_"'), b"utf-7") + plain + END),
        "twice": (USUAL, plain + part(name, b"other") + END),
        "parts within a part": (USUAL, part(name, value, b"Content-Type: multipart/mixed; boundary=c\r\n") + END),
        "a wrong length of a part": (USUAL, part(other, b"x" + plain, b"Content-Length: 1\r\n") + END),
    }
