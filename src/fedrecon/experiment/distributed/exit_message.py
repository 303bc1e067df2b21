"""Prints a message when a process of a distributed run is killed, or is aborted by JAX's runtime.

No handler in Python can do that. If the process is lost at which the others meet, JAX's runtime aborts the
others from C++, and `SIGKILL` runs no handler either. So a small helper process waits beside this one and
prints the message when this one ends.
"""

import atexit
import subprocess
import sys
from contextlib import suppress

# The helper process blocks until its standard input gives a byte or is closed. `withdraw` sends a byte, and
# the helper prints nothing. However this process ends, the system closes its end of the pipe: then the helper
# reads nothing, and prints the message.
_PROGRAM = "import sys\nif not sys.stdin.read(1): sys.stderr.write(sys.argv[1])"
_waiting: subprocess.Popen | None = None


def leave(text: str) -> None:
    """Has a text printed to the standard error if this process ends otherwise than by Python's own exit.

    Args:
        text: The message, with its line break.
    """
    global _waiting
    _waiting = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _PROGRAM, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # In a session of its own the helper does not get the Ctrl-C that is meant for this process.
        start_new_session=True,
    )
    atexit.register(withdraw)


def withdraw() -> None:
    """Ends the helper process without a message, since this process ends well or has printed why not."""
    global _waiting
    waiting, _waiting = _waiting, None
    if waiting is not None:
        with suppress(OSError):
            waiting.communicate(b".")
