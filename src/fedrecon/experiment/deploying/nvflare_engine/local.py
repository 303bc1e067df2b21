"""NVFlare's processes on this machine: their folders and keys, and how each is started."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedrecon._files import lock, make_folder, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.flower_processes import GO_ON, RUN, START
from fedrecon.experiment.deploying.nvflare_engine.job import JOB_ENDED, NODE_FOLDER, allow_classes, write_job
from fedrecon.experiment.deploying.plan import ENDED, LOCK, PROCESS
from fedrecon.experiment.deploying.processes import Processes, free_ports, lives

SERVER = "nvflare-server"
Progress = Callable[[dict[str, Any]], None]
ADMIN = "admin@fedrecon.invalid"
# NVFlare's server listens where its name says; it has the port for nodes and its control interface, with TLS.
_HOST = "localhost"
_ORGANISATION = "fedrecon"
# The longest time in seconds in which keys must be made.
_PATIENCE = 120.0
# The longest time in seconds until a process without parent has ended, and the seconds between two looks.
_END, _LOOK = 20.0, 0.1
_BUILDERS = ("workspace.WorkspaceBuilder", "static_file.StaticFileBuilder", "cert.CertBuilder")


def environment_for_nvflare(home: Path) -> dict[str, str]:
    """The environment variables of NVFlare's processes.

    Args:
        home: The folder of NVFlare's own files, which is used in place of one in the user's home.
    """
    return {"HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def start_federation(processes: Processes, home: Path, server: Path, nodes: Mapping[str, Path]) -> None:
    """Starts NVFlare's server and nodes on loopback, with TLS, and submits the job.

    Args:
        processes: The processes of the deployment.
        home: The folder of NVFlare's own files, which is made anew: the state of an earlier job is in the
            server's folder alone.
        server: The folder of the server, with the plan.
        nodes: The folder of each node by its name.

    Raises:
        RunError: NVFlare could not make the keys, or the process of earlier rounds still runs.
    """
    _refuse_others(server)
    shutil.rmtree(home, ignore_errors=True)
    kits = _provision(home, list(nodes))
    _forget_end(server)
    for site in (_HOST, *nodes):
        allow_classes(kits / site)
    _store_below(home / "server", kits / _HOST / "local" / "resources.json")
    for name, folder in nodes.items():
        (kits / name / NODE_FOLDER).symlink_to(folder.absolute(), target_is_directory=True)
    write_job(home / "job", server, on_loopback=True)
    common = ["org=" + _ORGANISATION, "config_folder=config"]
    for name, kind, site in [(SERVER, "server", _HOST), *((name, "client", name) for name in nodes)]:
        module = f"nvflare.private.fed.app.{kind}.{kind}_train"
        options = ["-m", str(kits / site), "-s", f"fed_{kind}.json", "--set", "secure_train=true"]
        own = [f"uid={site}"] if kind == "client" else []
        processes.start(name, [sys.executable, "-u", "-m", module, *options, *own, *common])
    submit = f"{__package__}.submit"
    words = [str(kits / ADMIN), str(home / "job"), str(len(nodes))]
    processes.start(RUN, [sys.executable, "-m", submit, *words])


def follow_jobs(
    server: Path, follow: Callable[[Progress], None], progress: Progress, submit_again: Callable[[], None]
) -> None:
    """Waits until the rounds are done, and submits the job again if NVFlare or a kill ends it.

    NVFlare ends a job on all nodes if the job's process on one of them dies. The rounds go on from the state
    in the server's folder, with all nodes. They do so, too, if the process that runs them dies.

    Args:
        server: The folder of the server.
        follow: A function that waits until the rounds have ended, and passes on all lines of `rounds.jsonl`.
        progress: A function that is called with the values of each line once.
        submit_again: A function that submits the job, and raises an error where it ended too often.

    Raises:
        RunError: The rounds ended for another reason, or the job has ended too often.
    """
    passed = set[tuple[int, int]]()

    def pass_on(line: dict[str, Any]) -> None:
        attempt = line["round"], line["attempt"]
        if attempt not in passed:
            passed.add(attempt)
            progress(line)

    while True:
        try:
            return follow(pass_on)
        except RunError:
            if not _ended_by_others(server):
                raise
            _forget_end(server)
            submit_again()


def submit_again(processes: Processes) -> None:
    """Submits the job of `start_federation` again.

    Args:
        processes: The processes of the deployment.

    Raises:
        RunError: NVFlare's server has ended, or the job was submitted too often.
    """
    if processes.status(SERVER) is not None:
        raise RunError(f"{processes.log(SERVER)}: the process {SERVER!r} has ended; {GO_ON}")
    processes.start_again(RUN)


class Beginning:
    """A look at a job that was submitted, which gives up if its rounds do not begin.

    NVFlare ends a job that fails before its rounds, such as one of a class that a site does not allow, and
    tells nobody of it.

    Args:
        processes: The processes of the deployment.
        server: The folder of the server.
        patience: The longest time in seconds from the submission to the first round; 300 by default.
    """

    def __init__(self, processes: Processes, server: Path, patience: float = START):
        self._processes, self._server, self._patience = processes, server, patience
        self._since: float | None = None

    def look(self) -> None:
        """Looks once.

        Raises:
            RunError: The job was submitted longer ago than the patience lasts, and no rounds have begun.
        """
        if self._processes.status(RUN) is None or (self._server / PROCESS).exists():
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > self._patience:
            raise RunError(
                f"{self._server}: NVFlare has the job, but its rounds have not begun in {self._patience:g} "
                f"seconds; {self._processes.log(SERVER)} says why"
            )


def wait_for_rounds(server: Path) -> None:
    """Waits until the process that ran the rounds has ended.

    If NVFlare's server is killed, that process, which looks whether its parent lives, outlives it by a second
    or two. It must not run beside the next one.

    Args:
        server: The folder of the server.
    """
    path, end = server / PROCESS, time.monotonic() + _END
    while path.exists() and lives(int(path.read_text())) and time.monotonic() < end:
        time.sleep(_LOOK)


def _refuse_others(server: Path) -> None:
    wait_for_rounds(server)
    try:
        lock(server / LOCK).release()
    except BlockingIOError:
        raise RunError(f"{server}: another process runs the rounds of this folder; end it first") from None


def _ended_by_others(server: Path) -> bool:
    """Whether NVFlare ended the rounds, or their process died before it could say why."""
    if (server / ENDED).exists():
        return JOB_ENDED in (server / ENDED).read_text()
    return (server / PROCESS).exists() and not lives(int((server / PROCESS).read_text()))


def _forget_end(server: Path) -> None:
    for name in (ENDED, PROCESS):
        (server / name).unlink(missing_ok=True)


def _provision(home: Path, nodes: list[str]) -> Path:
    """Makes the folders and keys of all parties by NVFlare's command; returns the folder that holds them."""
    make_folder(home)
    sites = [{"name": name, "type": "client", "org": _ORGANISATION} for name in nodes]
    server = {"name": _HOST, "type": "server", "org": _ORGANISATION, "fed_learn_port": free_ports(1)[0]}
    admin = {"name": ADMIN, "type": "admin", "org": _ORGANISATION, "role": "project_admin"}
    arguments: list[dict[str, Any]] = [
        {"template_file": ["master_template.yml"]},
        {"config_folder": "config"},
        {},
    ]
    builders = [
        {"path": f"nvflare.lighter.impl.{builder}", "args": given}
        for builder, given in zip(_BUILDERS, arguments, strict=True)
    ]
    project = {
        "api_version": 3,
        "name": "fedrecon",
        "description": "a deployment on one machine",
        "participants": [server, admin, *sites],
        "builders": builders,
    }
    # JSON is YAML, too.
    write_atomically(home / "project.yml", json.dumps(project, indent=1) + "\n")
    command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", str(home / "project.yml")]
    done = subprocess.run(
        [*command, "-w", str(home / "kits"), "--force"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment_for_nvflare(home)},
        timeout=_PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise RunError(f"nvflare provision: {(done.stderr or done.stdout).strip()}")
    return home / "kits" / "fedrecon" / "prod_00"


def _store_below(folder: Path, path: Path) -> None:
    """Puts what NVFlare's server stores, by default in the system's temporary folder, into a folder."""
    values = json.loads(path.read_text())
    values["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(folder / "snapshots")
    for component in values["components"]:
        if component["id"] == "job_manager":
            component["args"]["uri_root"] = str(folder / "jobs")
    write_atomically(path, json.dumps(values, indent=2) + "\n")
