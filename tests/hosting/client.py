"""Asks a server, in this process or, as a program, on another machine."""

import sys
import time
import urllib.error
import urllib.request


def fetch(url: str, body: str, patience: float) -> str:
    """What it says. Whoever is refused with 503 comes back, for so many seconds."""
    request = urllib.request.Request(
        url, body.encode() or None, {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() >= deadline:
                raise
            time.sleep(float(error.headers["Retry-After"]) / 4)


if __name__ == "__main__":
    sys.stdout.write(fetch(sys.argv[1], sys.argv[2], float(sys.argv[3])))
