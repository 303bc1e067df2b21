"""TLS and keys over Flower's own processes: whom a server lets in, and what a proxy passes on."""

import http.client
import importlib.util
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from tests.integration.apps import COHORT, write_app, write_ratings
from tests.integration.proxies import CONTROL, DISGUISES, FLEET, post, proxy

from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.flower_app import experiment_of
from fedrecon.experiment.deploying.flower_processes import (
    NodeAccess,
    environment_for,
    start_superlink,
    start_supernode,
)
from fedrecon.experiment.deploying.keys import Keys
from fedrecon.experiment.deploying.processes import Processes, free_ports
from fedrecon.experiment.deploying.server import Registrations
from fedrecon.experiment.deploying.service_files import nginx_config
from fedrecon.experiment.training.build import task_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("flwr") is None, reason="needs Flower: pip install 'fedrecon[flower]'"
    ),
]
PATIENCE = 600.0


def wait_for(there):
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A SuperLink with TLS that accepts the key of node a; that of b is revoked, that of c a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    keys, strangers = Keys(folder / "keys"), Keys(folder / "others")
    port = free_ports(1)[0]
    for one in (keys, strangers):
        one.create_authority(f"127.0.0.1:{port}")
    for node in ("a", "b"):
        keys.create_node(node, folder / node)
    keys.revoke("b")
    strangers.create_node("c", folder / "c")
    with Processes(folder / "logs", environment_for(folder / "flower")) as processes:
        start_superlink(processes, folder / "flower", port, keys.certificates)
        registrations = Registrations(keys, folder / "flower")
        registrations.update()
        yield folder, port, keys, registrations, processes


def join(federation, name, node, authority):
    folder, port, _, _, processes = federation
    access = NodeAccess(authority, folder / node / "node.key")
    start_supernode(processes, name, f"127.0.0.1:{port}", free_ports(1)[0], folder / "socket", access)
    return processes.log(name)


def test_nodes_without_an_active_key_are_refused(federation):
    folder, _, keys, registrations, processes = federation
    authority = keys.certificates.authority
    active = join(federation, "active", "a", authority)
    revoked = join(federation, "revoked", "b", authority)
    stranger = join(federation, "stranger", "c", authority)
    misled = join(federation, "misled", "a", folder / "others" / "ca.pem")
    wait_for(lambda: "SuperNode ID" in active.read_text())
    for name, log in (("revoked", revoked), ("stranger", stranger)):
        wait_for(lambda name=name: processes.status(name) is not None)
        assert processes.status(name) != 0
        assert "Failed to activate" in log.read_text()
    # A server whose certificate another authority signed is none that the node talks to.
    assert "SuperNode ID" not in misled.read_text()
    keys.revoke("a")
    registrations.update()
    again = join(federation, "again", "a", authority)
    wait_for(lambda: processes.status("again") is not None)
    assert "Failed to activate" in again.read_text()
    keys.create_node("a", folder / "a")
    registrations.update()
    renewed = join(federation, "renewed", "a", authority)
    wait_for(lambda: "SuperNode ID" in renewed.read_text())


def test_plain_http_and_other_authorities_are_refused(federation):
    folder, port, keys, _, _ = federation
    with pytest.raises((urllib.error.URLError, http.client.HTTPException, OSError)):
        urllib.request.urlopen(f"http://127.0.0.1:{port}{FLEET}", b"", timeout=30)
    with pytest.raises(ssl.SSLCertVerificationError):
        post(port, FLEET, folder / "others" / "ca.pem")
    assert post(port, FLEET, keys.certificates.authority) in (400, 401, 403, 415, 422)


def test_proxy_passes_on_what_nodes_need_and_nothing_else(federation):
    folder, port, keys, _, processes = federation
    listen, authority = free_ports(1)[0], keys.certificates.authority
    direct = post(port, FLEET, authority)
    assert post(port, CONTROL, authority) not in (403, 404)  # the SuperLink itself would take a run
    text = nginx_config(listen, "localhost", port, keys.certificates)
    with proxy("nginx", folder / "nginx", text, listen):
        for path in (CONTROL, *DISGUISES):
            assert post(listen, path, authority) in (400, 403), path
        assert post(listen, FLEET, authority) == direct
        # This one is a node's path to the proxy, which passes on what it understood and not what came.
        assert post(listen, "/v1/control/..%2ffleet/get-run", authority) == direct
        if not keys.active():
            keys.create_node("a", folder / "a")
        keys.create_node("d", folder / "d")
        federation[3].update()
        access = NodeAccess(authority, folder / "d" / "node.key")
        at = f"127.0.0.1:{listen}"
        start_supernode(processes, "proxied", at, free_ports(1)[0], folder / "socket", access)
        wait_for(lambda: "SuperNode ID" in processes.log("proxied").read_text())


@pytest.fixture
def server(tmp_path, repository):
    """The folder of a server, with two nodes that have their data."""
    data = str(write_ratings(tmp_path / "ratings.csv"))
    folder = tmp_path / "spring"
    app = write_app(tmp_path / "app", repository / "experiments" / "movielens.toml", 2)
    port = free_ports(1)[0]
    (app / "deployment.toml").write_text(f'address = "127.0.0.1:{port}"\nnodes = 2\n')
    assert main(["deploy", "prepare", str(app), "--data", data, "--out", str(folder)]) == 0
    assert main(["deploy", "keys", "create", str(folder), "north", "south"]) == 0
    train = task_of(experiment_of(app, (f"data.path='{data}'",))).train
    for number, node in enumerate(("north", "south")):
        train.take(range(number, len(train), 2)).write(folder / "nodes" / node / "clients.arrow")
    return folder


def test_server_and_nodes_are_commands_of_their_own(server, tmp_path):
    command = [sys.executable, "-m", "fedrecon", "deploy"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with Processes(tmp_path / "logs", environment) as processes:
        processes.start("server", [*command, "server", str(server)])
        for node in ("north", "south"):
            processes.start(node, [*command, "node", str(server / "nodes" / node)])
        wait_for(lambda: processes.status("server") is not None)
        assert processes.status("server") == 0, processes.log("server").read_text()
        assert processes.status("north") is None and processes.status("south") is None
    lines = [json.loads(line) for line in (server / "rounds.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [COHORT] * 2
    with np.load(server / "global_params.npz") as params:
        assert {name.split("/")[0] for name in params} >= {"item"}
        assert all(np.all(np.isfinite(params[name])) for name in params)
    assert not (server / "nodes" / "north" / "server.state").exists()
