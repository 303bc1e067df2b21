"""What is said if this process ends without a word of its own.

Where the process of a run is lost that the others meet at, JAX's runtime aborts them, too soon for any
handler of Python's; and a process that is killed says nothing either. So another process waits beside it.
"""

import atexit
import subprocess
import sys
from contextlib import suppress

# Waits for a word, or for the end of who could say it.
_PROGRAM = "import sys\nif not sys.stdin.read(1): sys.stderr.write(sys.argv[1])"
_waiting: subprocess.Popen | None = None


def leave(text: str) -> None:
    """Has a text printed to the standard error if this process ends otherwise than by Python's own exit."""
    global _waiting
    _waiting = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _PROGRAM, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    atexit.register(withdraw)


def withdraw() -> None:
    """Takes the text back: this process ends well, or has said itself why not."""
    global _waiting
    waiting, _waiting = _waiting, None
    if waiting is not None:
        with suppress(OSError):
            waiting.communicate(b".")
