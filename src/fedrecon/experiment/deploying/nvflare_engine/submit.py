"""Hands a job to NVFlare's server, as the program `python -m …nvflare_engine.submit KIT JOB NODES`."""

import sys
import time

from nvflare.fuel.flare_api.flare_api import new_secure_session

from fedrecon.errors import RunError
from fedrecon.experiment.deploying.nvflare_engine.local import ADMIN

# The longest time in seconds in which the nodes must be there, and the seconds between two looks.
_START, _LOOK = 300.0, 0.5


def submit(kit: str, job: str, nodes: int) -> None:
    """Waits for nodes and submits a job.

    Args:
        kit: The folder of the administrator.
        job: The folder of the job.
        nodes: The number of nodes that must be connected, since only these take part in the job.

    Raises:
        RunError: Nodes are missing.
    """
    end = time.monotonic() + _START
    session = new_secure_session(ADMIN, kit, timeout=_START)
    try:
        while (there := len(session.get_system_info().client_info)) < nodes:
            if time.monotonic() > end:
                raise RunError(f"{nodes} nodes must be there, {there} are connected after {_START:g} seconds")
            time.sleep(_LOOK)
        session.submit_job(job)
    finally:
        session.close()


if __name__ == "__main__":
    submit(sys.argv[1], sys.argv[2], int(sys.argv[3]))
