"""JSON values of a file, decoded one at a time: an array of gigabytes takes the memory of its longest value."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cptlaw.data.documents import CorpusError, too_long

BLOCK = 1 << 20


class Values:
    """JSON values of a stream, decoded one at a time. `line` is the one that is being read."""

    def __init__(self, path: Path, limit: int):
        self.path, self.limit, self.line = path, limit, 1
        self._buffer, self._at, self._ended = "", 0, False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()

    def of(self, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
        array = self._peek(file) == "["
        if array:
            self._at += 1
        scan = json.JSONDecoder().raw_decode
        while (next_ := self._peek(file)) and not (array and next_ == "]"):
            while True:
                try:
                    value, end = scan(self._buffer, self._at)
                except RecursionError:
                    raise self._error("nested too deeply") from None
                except ValueError as error:
                    if self._ended or not self._cut(error):
                        raise self._error(f"not JSON ({error})") from None
                    if len(self._buffer) - self._at > self.limit:
                        raise self._error(too_long(self.limit)) from None
                    self._more(file)
                else:
                    break
            if end - self._at > self.limit:
                raise self._error(too_long(self.limit))
            yield self.line, value
            self._advance(end)
            if array and (next_ := self._peek(file)) != "]":
                if next_ != ",":
                    raise self._error("the array does not end" if not next_ else f"',' or ']' expected, not {next_!r}")
                self._advance(self._at + 1)
        if array and not next_:
            raise self._error("the array does not end")
        if array and (next_ := self._peek(file, beyond=True)):
            raise self._error(f"the array has ended, but {next_!r} follows")

    def _cut(self, error: ValueError) -> bool:
        """Whether the value may only be unfinished: the text ends where the decoder stopped, or in a string."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self._buffer) - 16

    def _peek(self, file: IO[bytes], beyond: bool = False) -> str:
        """The next character that is no blank, or the one beyond it; empty at the end."""
        if beyond:
            self._at += 1
        while True:
            while self._at < len(self._buffer):
                if not self._buffer[self._at].isspace():
                    return self._buffer[self._at]
                self._advance(self._at + 1)
            if self._ended:
                return ""
            self._more(file)

    def _advance(self, to: int) -> None:
        self.line += self._buffer.count("\n", self._at, to)
        self._at = to

    def _more(self, file: IO[bytes]) -> None:
        # As much again as is waiting, so that a long value is not scanned once a block.
        data = file.read(max(BLOCK, len(self._buffer) - self._at))
        self._ended = not data
        try:
            self._buffer = self._buffer[self._at :] + self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._error(f"not UTF-8 text ({error})") from None
        self._at = 0

    def _error(self, why: str) -> CorpusError:
        return CorpusError(f"{self.path}, line {self.line}: {why}; mend or remove it")
