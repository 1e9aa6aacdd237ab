# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the person in front of the screen sees."""

import sys
import time

_STARTED = time.monotonic()


def step(text: str) -> None:
    """Say what is done now, with the seconds since the start."""
    print(f"\n\033[1m[{time.monotonic() - _STARTED:4.0f} s] {text}\033[0m" if sys.stdout.isatty() else _plain(text), flush=True)


def tell(text: str) -> None:
    """Say a fact about the step."""
    print(f"         {text}", flush=True)


def fail(text: str) -> None:
    """Say why it cannot go on, and end."""
    print(f"\nmake demo: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def _plain(text: str) -> str:
    return f"\n[{time.monotonic() - _STARTED:4.0f} s] {text}"
