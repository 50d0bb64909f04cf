"""Learns how many tokens the calls of one key to one model take. Pure."""

import msgspec

from shared.types import Usage

_MOST_CALLS = 50  # that an average is taken over; older ones fade


class Size(msgspec.Struct, frozen=True, gc=False):
    """The properties of a call that decide its tokens: bytes of text; `pieces` whose tokens do not follow from their
    bytes (images, sound, files, objects that the backend keeps of earlier calls); the number of answers."""

    text: int
    pieces: int = 0
    answers: int = 1


class TokenAverages(msgspec.Struct, frozen=True, gc=False):
    """Averages over the calls of one key to one model. The initial values count as `prior` - 1 calls.

    `output` and `output_squared` are averages per answer. Their quotient is the average per token, which is used:
    a long answer is under way for longer, so answers under way are longer than the average one.
    """

    tokens_per_byte: float = 0.25  # a token is about four bytes of English, less of its JSON
    output: float = 240.0
    output_squared: float = 240.0 * 450.0
    calls: int = 0
    tokens_per_piece: float = 1000.0
    prior: int = 12

    @property
    def expected_output(self) -> float:
        """Tokens of an answer that is under way."""
        return self.output_squared / self.output if self.output >= 1 else self.output

    @staticmethod
    def of_others(expected_output: float) -> "TokenAverages":
        """The averages to start from, given what another instance expects."""
        return TokenAverages(output=expected_output / 1.9, output_squared=expected_output**2 / 1.9)

    def learn(self, size: Size, usage: Usage) -> "TokenAverages":
        """The averages with one more call, whose usage the backend has reported."""
        weight, output = 1 / min(self.calls + self.prior, _MOST_CALLS), usage.output_tokens / size.answers
        ratio, piece = self.tokens_per_byte, self.tokens_per_piece
        if size.pieces:
            rest = max(0.0, usage.input_tokens - size.text * ratio)
            piece += max(weight, 0.2) * (rest / size.pieces - piece)
        elif size.text:
            ratio += weight * (min(2.0, usage.input_tokens / size.text) - ratio)
        return TokenAverages(
            ratio,
            self.output + weight * (output - self.output),
            self.output_squared + weight * (output * output - self.output_squared),
            self.calls + 1,
            piece,
            self.prior,
        )

    def input(self, size: Size) -> float:
        """Tokens of the prompt."""
        return size.text * self.tokens_per_byte + size.pieces * self.tokens_per_piece
