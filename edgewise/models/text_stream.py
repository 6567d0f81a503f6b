"""Tokens in, text out, as soon as it is certain."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CONTEXT = 6  # tokens in front of new ones that are decoded again with them
BATCH = 16  # new tokens after which text is settled
FOLLOWING = 4  # characters, so bytes at least: no character in front of them is unfinished


class TextStream:
    """Token ids in, printable text out. Text that may still change is held back: bytes of an
    unfinished character, and a beginning of a stop string.

    Only a tail of the tokens is decoded at each step, so long answers take time in proportion to
    their length. How a token reads may depend on those in front of it (bytes of one character, a
    space that only the first word lacks), so the tail begins with some whose text is settled.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, [s for s in stop if s]
        self._ids: list[int] = []  # the tail
        self._context = 0  # how many of it are settled, and are there for the others' sake
        self._skip = 0  # characters that those are decoded to
        self._settled = ""  # settled text, as far as it is not out yet
        self._sent = 0  # characters of that and of the text behind it that are out
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain; sets `stopped` where a stop string ends it."""
        self._ids.append(token)
        text = self._text()
        if self._cut(text) is not None:
            return self.flush()
        certain = text.rstrip(REPLACEMENT)
        longest = max((overlap(certain, stop) for stop in self._stop), default=0)
        piece = self._send(certain, len(certain) - longest)
        if (len(self._ids) - self._context) % BATCH == 0:
            self._settle()
        return piece

    def flush(self) -> str:
        """What was held back, up to a stop string."""
        text = self._text()
        end = self._cut(text)
        self.stopped = end is not None
        return self._send(text, len(text) if end is None else end)

    def _text(self) -> str:
        """Everything from the first character that is not out yet, or some before it, on."""
        return self._settled + self._decode(self._ids)[self._skip :]

    def _cut(self, text: str) -> int | None:
        # What is out holds no beginning of a stop string.
        starts = [at for at in (text.find(stop, self._sent) for stop in self._stop) if at >= 0]
        return min(starts, default=None)

    def _send(self, text: str, end: int) -> str:
        new = text[self._sent : end]
        self._sent = max(self._sent, end)
        return new

    def _settle(self) -> None:
        """Shorten the tail, where that changes nothing: at an `end` behind which text does not
        change any more, and a `start` from which the rest reads as it did."""
        ids, whole = self._ids, self._decode(self._ids)
        for end in range(len(ids), self._context, -FOLLOWING):
            before = self._decode(ids[:end])
            unfinished = before.endswith(REPLACEMENT) and len(whole) < len(before) + FOLLOWING
            if unfinished or not whole.startswith(before):
                continue
            start = max(end - CONTEXT, 0)
            known = self._decode(ids[start:end])
            if known and self._decode(ids[start:]) == known + whole[len(before) :]:
                self._settled += before[self._skip :]
                self._ids, self._context, self._skip = ids[start:], end - start, len(known)
                sent = min(self._sent, len(self._settled))
                self._settled, self._sent = self._settled[sent:], self._sent - sent
                return


def overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)
