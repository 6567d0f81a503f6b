"""Chrome traces: spans of work, for chrome://tracing and ui.perfetto.dev."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

_MICROSECONDS = 1e6

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """What took from `start_seconds` to `end_seconds`, on any one clock. It is drawn in a row
    called `thread`, in a group of rows called `process`; `args` show when it is selected."""

    process: str
    thread: str
    name: str
    category: str
    start_seconds: float
    end_seconds: float
    args: Mapping[str, object] = field(default_factory=dict)


def chrome_trace(spans: Iterable[TraceSpan]) -> str:
    """JSON that the viewers open."""
    spans = list(spans)
    processes = _numbered(span.process for span in spans)
    threads = _numbered((span.process, span.thread) for span in spans)
    events: list[dict[str, object]] = [
        _named("process_name", pid, 0, name) for name, pid in processes.items()
    ]
    for (process, name), tid in threads.items():
        events.append(_named("thread_name", processes[process], tid, name))
    for span in spans:
        events.append(
            {
                "ph": "X",
                "name": span.name,
                "cat": span.category,
                "pid": processes[span.process],
                "tid": threads[span.process, span.thread],
                "ts": span.start_seconds * _MICROSECONDS,
                "dur": (span.end_seconds - span.start_seconds) * _MICROSECONDS,
                "args": dict(span.args),
            }
        )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _numbered(items: Iterable[T]) -> dict[T, int]:
    return {item: number for number, item in enumerate(dict.fromkeys(items), start=1)}
