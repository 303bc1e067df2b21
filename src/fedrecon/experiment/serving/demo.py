"""Serves the page of one or two runs on this machine."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedrecon.experiment.config import Config
from fedrecon.experiment.serving.export import Wanted, export_run, page_of, subject_of
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.export._graph.program import ExportError
from fedrecon.export._web.page import write_page
from fedrecon.export._web.server import server_of


def serve_demo(runs: Sequence[tuple[Path, Config]], port: int, screen: Console, wanted: Wanted) -> None:
    """Exports runs and serves their page until Ctrl-C.

    Args:
        runs: One or two run folders, each with its configuration.
        port: The port of the server; 0 for a free one.
        screen: The console that shows the address.
        wanted: The options of the exports.

    Raises:
        SettingError: A run cannot be exported, the two do not go together, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="fedrecon-demo-") as folder:
        root = Path(folder)
        models, files = [], []
        for number, (run, config) in enumerate(runs):
            name = f"model{number}"
            export_run(run, config, root / name, screen, wanted)
            models.append({"folder": f"{name}/", "label": run.name})
            files += [f"{name}/{path.name}" for path in (root / name).iterdir()]
        if len({config.task for _, config in runs}) > 1:
            raise SettingError("--other must be a run of the same task")
        if len(runs) > 1 and runs[0][1].task == "next_word":
            raise SettingError("--other takes runs that recommend items")
        try:
            page = page_of(runs[0][1], subject_of(*runs[0]), models, wanted.titles)
            files += write_page(page, root, wanted.runtime)
        except ExportError as error:
            raise SettingError(str(error)) from None
        try:
            server = server_of(root, files, port)
        except OSError as error:
            raise SettingError(f"--port: {port} cannot be used: {error.strerror}") from None
        with server:
            screen.print(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                screen.print("stopped")
