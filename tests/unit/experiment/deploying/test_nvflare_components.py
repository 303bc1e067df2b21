"""The two components of NVFlare's job, outside of its processes, where NVFlare is installed."""

import json
from functools import partial
from types import SimpleNamespace

import pytest

from fedrecon.experiment.deploying.nvflare_engine.job import ASK, NODE_FOLDER
from fedrecon.experiment.deploying.nvflare_engine.site import LOG_FILE, STREAMS
from fedrecon.experiment.deploying.plan import ENDED, DeploymentPlan
from fedrecon.experiment.deploying.server import noted_rounds

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'fedrecon[nvflare]'")

from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedrecon.experiment.deploying.nvflare_engine import controller as controllers
from fedrecon.experiment.deploying.nvflare_engine.controller import RoundsController
from fedrecon.experiment.deploying.nvflare_engine.executor import NodeExecutor


def context(site):
    """NVFlare's context of a task on a site."""
    values = FLContext()
    values.set_prop(FLContextKey.WORKSPACE_ROOT, str(site))
    values.set_prop(FLContextKey.WORKSPACE_OBJECT, SimpleNamespace(get_root_dir=lambda: str(site)))
    values.set_prop("__identity_name__", "north")
    return values


@pytest.mark.parametrize("streams", [True, False])
def test_site_that_sends_its_logs_does_no_task(tmp_path, log, caplog, streams):
    for name in ("local", "startup", NODE_FOLDER):
        (tmp_path / name).mkdir()
    (tmp_path / "local" / "resources.json").write_text(json.dumps({"allow_log_streaming": streams}))
    answer = NodeExecutor().execute(ASK, Shareable(), context(tmp_path), Signal())
    assert answer.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert (STREAMS in caplog.text) == streams
    # The folder of the node has no plan; the text of this error is in its own log alone.
    assert (tmp_path / NODE_FOLDER / LOG_FILE).exists() != streams
    assert "deployment.json" not in caplog.text
    assert "Traceback" not in caplog.text


def test_status_of_the_job_has_no_text_of_an_error(tmp_path, monkeypatch):
    DeploymentPlan("spring", {}, {}, 3).write(tmp_path)
    controller, told = RoundsController(str(tmp_path)), []
    monkeypatch.setattr(controller, "system_panic", lambda reason, context: told.append(reason))
    controller.control_flow(Signal(), FLContext())
    assert told == [f"SettingError: the file {ENDED} of the server says more"]
    assert "here NVFlare's network" in (tmp_path / ENDED).read_text()
    monkeypatch.setattr(controllers, "noted_rounds", partial(noted_rounds, patience=0.0))
    with noted_rounds(tmp_path):
        controller.control_flow(Signal(), FLContext())
    assert "another process runs the rounds of this folder" in told[1]
