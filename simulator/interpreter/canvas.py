"""A canvas of pixels with lines, rectangles and small capitals, and its PNG."""

import struct
import zlib

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
# Three pixels by five, a row per octal digit.
_GLYPHS = {
    " ": "00000", "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757",
    "7": "71122", "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647",
    "F": "74644", "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755",
    "N": "65555", "O": "25552", "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557",
    "V": "55552", "W": "55775", "X": "55255", "Y": "55222", "Z": "71247", ".": "00002", "-": "00700", "_": "00007",
    ":": "02020", "/": "11244", "%": "51245", "(": "12221", ")": "42224", "+": "02720", ",": "00024", "=": "07070",
}  # fmt: skip
_UNKNOWN = "71202"
SCALE = 2
GLYPH_WIDTH, GLYPH_HEIGHT = 4 * SCALE, 5 * SCALE


class Canvas:
    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rows = [bytearray(WHITE * width) for _ in range(height)]

    def rectangle(self, left: int, top: int, width: int, height: int, colour: Colour) -> None:
        left, right = max(0, left), min(self.width, left + width)
        if right > left:
            for row in self._rows[max(0, top) : max(0, top + height)]:
                row[3 * left : 3 * right] = bytes(colour) * (right - left)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour, thickness: int = 2) -> None:
        steps = max(1, round(max(abs(end[0] - start[0]), abs(end[1] - start[1]))))
        for step in range(steps + 1):
            share = step / steps
            x, y = start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
            self.rectangle(round(x), round(y), thickness, thickness, colour)

    def text(self, left: int, top: int, text: str, colour: Colour) -> None:
        for place, character in enumerate(text.upper()):
            for y, octal in enumerate(_GLYPHS.get(character, _UNKNOWN)):
                for x in range(3):
                    if int(octal) >> (2 - x) & 1:
                        at = left + place * GLYPH_WIDTH + x * SCALE
                        self.rectangle(at, top + y * SCALE, SCALE, SCALE, colour)

    def png(self) -> bytes:
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
        pixels = zlib.compress(b"".join(b"\0" + row for row in self._rows), 6)
        chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
