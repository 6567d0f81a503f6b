"""Which shapes of work to time: few enough to wait for, enough for the regressions."""

from dataclasses import dataclass, replace

from edgewise.memory import PREFILL_CHUNK
from edgewise.specs import NO_EXTRA, ExtraWork, Workload

ENDS = 5  # short prompts for an embedding: it costs next to nothing

Shape = tuple[int, int, int]  # sequences, new tokens, cached tokens


@dataclass(frozen=True, slots=True)
class Grid:
    """The shapes to time, each at most `repeats` times, of layers that have `extra` work."""

    decode: tuple[Shape, ...]
    prefill: tuple[Shape, ...]
    repeats: int = 20
    extra: ExtraWork = NO_EXTRA

    @property
    def context(self) -> int:
        return max(tokens + past for _, tokens, past in (*self.decode, *self.prefill))

    @property
    def ends(self) -> tuple[Shape, ...]:
        """Those at which embedding and head are timed. They know no context: decoding after several
        says how sure their seconds are."""
        prefill = {shape[:2]: shape for shape in self.prefill}.values()
        return (*self.decode, *sorted(prefill, key=lambda x: x[0] * x[1])[:ENDS])

    @property
    def sequences(self) -> int:
        return max(sequences for sequences, *_ in (*self.decode, *self.prefill))

    @staticmethod
    def around(workload: Workload) -> "Grid":
        """Just what one workload needs: half and whole contexts, prompts or their chunks, the last
        of which comes behind all the others."""
        batch, last, prompt = workload.batch, workload.context - 1, max(workload.prompt_tokens, 2)
        chunk = min(prompt, PREFILL_CHUNK)
        decode = sorted({max(last // 2, 1), last})
        prefill = [(batch, length, 0) for length in sorted({max(chunk // 2, 2), chunk})]
        if prompt > chunk:
            prefill.append((batch, chunk, prompt - chunk))
        shapes = tuple((batch, 1, past) for past in decode)
        return Grid(shapes, tuple(prefill), extra=workload.extra)

    @staticmethod
    def serving(workload: Workload) -> "Grid":
        """What a workload needs whose requests come and go: as many as there are, and one."""
        around = Grid.around(workload)
        one = Grid.around(replace(workload, sequences=1, micro_batches=1))
        decode, prefill = (*around.decode, one.decode[0]), (*around.prefill, one.prefill[-1])
        shapes = tuple(dict.fromkeys(decode)), tuple(dict.fromkeys(prefill))
        return Grid(*shapes, extra=workload.extra)

    @staticmethod
    def wide(context: int, extra: ExtraWork = NO_EXTRA) -> "Grid":
        """Contexts, lengths and batches for any workload of up to `context` tokens: of prompts
        three shapes and more on each side of every switch that kernels may have."""
        first, middle, last = (max(context * part // 8, 4) for part in (1, 4, 7))
        contexts = {1: (first, middle, last), 2: (middle,), 4: (first, last), 8: (middle,)}
        decode = [(batch, 1, past) for batch, pasts in contexts.items() for past in pasts]
        *lengths, chunk = (max(min(x, context - 1), 2) for x in (4, 16, 32, 64, PREFILL_CHUNK))
        prefill = [(batch, x, 0) for x in lengths for batch in (1, 4)]
        prefill += [(2, x, 0) for x in lengths[:2]]
        prefill += [(1, chunk, 0), (1, chunk, context - 1 - chunk)]
        return Grid(tuple(dict.fromkeys(decode)), tuple(dict.fromkeys(prefill)), 5, extra)
