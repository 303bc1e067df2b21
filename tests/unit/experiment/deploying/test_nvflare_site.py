"""A node in NVFlare's process: where its errors go, and that people are protected there, too."""

import json
import logging

import pytest
from tests.integration.apps import write_ratings
from tests.unit.experiment.deploying.here import deployment_of

from fedrecon.deployment._wire import decode
from fedrecon.experiment import config as configs
from fedrecon.experiment.deploying.local import work_folder
from fedrecon.experiment.deploying.nvflare_engine.job import ASK, MESSAGES, NAMES, NODE_FOLDER, TRAIN
from fedrecon.experiment.deploying.nvflare_engine.site import LOG_FILE, Site

SETTINGS = ["task=movielens", "training.rounds=2", "training.clients_per_round=6", "model.factors=3"]


@pytest.fixture
def folder(tmp_path):
    """The folder of a site without data."""
    (tmp_path / NODE_FOLDER).mkdir()
    return tmp_path


def test_site_names_its_clients_and_answers_messages(tmp_path, log):
    write_ratings(tmp_path / "ratings.csv", 20, 30)
    deployment = deployment_of(
        tmp_path, configs.load(None, [*SETTINGS, f"data.path='{tmp_path / 'ratings.csv'}'"])
    )
    deployment.prepare()
    site = tmp_path / "site"
    (site / "startup").mkdir(parents=True)
    (site / NODE_FOLDER).symlink_to(work_folder(deployment.out) / "node-0", target_is_directory=True)

    def connect_to(target):
        text = json.dumps({"servers": [{"service": {"target": target}}]})
        (site / "startup" / "fed_client.json").write_text(text)

    # Neither the plan's address, which is one of loopback, nor the job alone lifts the rule.
    connect_to("fed.example.org:8002")
    for on_loopback in (False, True):
        assert Site(site, on_loopback).answer(ASK, {}) is None
        text = (site / NODE_FOLDER / LOG_FILE).read_text()
        here = "fed.example.org:8002" if on_loopback else "NVFlare's network"
        assert f"accept_row_leak must be true outside loopback, here {here}" in text
    connect_to("localhost:8002")
    local = Site(site, True)
    names = local.answer(ASK, {})[NAMES]
    assert len(names) == 8
    (answer,) = local.answer(TRAIN, {MESSAGES: [b"garbage"]})[MESSAGES]
    assert decode(answer).kind == "refusal"


def test_texts_of_errors_stay_in_the_nodes_log(folder, log, caplog):
    site = Site(folder, False)
    assert site.answer(ASK, {}) is None  # the folder has no plan
    logging.getLogger("fedrecon.deployment").error("client 5: data")
    text = (folder / NODE_FOLDER / LOG_FILE).read_text()
    assert "a deployment needs this file" in text
    assert "Traceback" in text
    assert "client 5: data" in text
    # NVFlare writes what reaches the root of all logs to files that may leave the site.
    assert not caplog.records
    assert (folder / NODE_FOLDER / LOG_FILE).stat().st_mode & 0o077 == 0


def test_site_without_the_folder_of_a_node_is_refused(tmp_path, log):
    with pytest.raises(FileNotFoundError):
        Site(tmp_path, False)
