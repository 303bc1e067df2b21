"""The generated configurations of proxies, before a server that answers whatever reaches it."""

import os
import shutil
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.integration.proxies import CONTROL, DISGUISES, FLEET, post, proxy

from fedrecon.experiment import config as configs
from fedrecon.experiment.deploying.keys import Keys
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.preparing import create_keys
from fedrecon.experiment.deploying.processes import free_ports
from fedrecon.experiment.deploying.service_files import caddy_config, nginx_config, write_files

OUTSIDE = "fed.example.org:8443"


@pytest.fixture
def keys(tmp_path):
    pytest.importorskip("cryptography")
    keys = Keys(tmp_path / "keys")
    keys.create_authority("127.0.0.1:8443")
    return keys


@pytest.fixture
def upstream(keys):
    """A server with TLS in the place of a SuperLink; the paths that reached it."""
    reached = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self):
            reached.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.certificates.certificate, keys.certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1], reached
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("kind", "config"), [("nginx", nginx_config), ("caddy", caddy_config)])
def test_run_requests_do_not_pass_a_proxy(tmp_path, keys, upstream, kind, config):
    port, reached = upstream
    listen, authority = free_ports(1)[0], keys.certificates.authority
    assert post(port, CONTROL, authority) == 200  # whoever reaches the server itself could start a run
    reached.clear()
    with proxy(kind, tmp_path / kind, config(listen, "localhost", port, keys.certificates), listen):
        for path in (CONTROL, *DISGUISES):
            assert post(listen, path, authority) in (400, 403), path
        assert post(listen, FLEET, authority, "GET") == 403
        assert not reached
        assert post(listen, FLEET, authority) == 200
        assert reached == [FLEET]
        with pytest.raises(ssl.SSLCertVerificationError):
            post(listen, FLEET)  # its certificate is of an authority of ours


def files(folder):
    """The files for machines of their own, by their names."""
    pytest.importorskip("cryptography")
    settings = ["task=movielens", "data.path=x", "model.global_bias=3.5"]
    config = configs.load(None, settings)
    plan = DeploymentPlan("spring", config.model_dump(), {"item": ["a"]}, 4, address=OUTSIDE)
    folder.mkdir()
    plan.write(folder)
    create_keys(folder, ("north",))
    return {path.name: path for path in write_files(folder)}


def test_units_are_understood_by_systemd(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    written = files(tmp_path / "spring")
    server = written["fedrecon-server.service"]
    node = tmp_path / "fedrecon-node@north.service"
    # The program of a node's machine is not on this one.
    node.write_text(
        written["fedrecon-node@.service"].read_text().replace("/usr/local/bin/fedrecon", sys.executable)
    )
    for unit in (server, node):
        done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    wrong = tmp_path / "wrong.service"
    wrong.write_text(server.read_text().replace("Restart=on-failure", "Restart=perhaps"))
    found = subprocess.run([program, "verify", "--man=no", str(wrong)], capture_output=True, text=True)
    assert "perhaps" in found.stderr  # so that silence means something


def test_compose_files_keep_the_superlink_inside(tmp_path):
    yaml = pytest.importorskip("yaml")
    written = files(tmp_path / "spring")
    services = yaml.safe_load(written["compose.server.yaml"].read_text())["services"]
    assert services["server"]["command"] == ["deploy", "server", str(tmp_path / "spring")]
    assert services["server"]["ports"] == ["8443:8443"] and "ports" not in services["proxy"]
    assert services["proxy"]["network_mode"] == "service:server"
    node = yaml.safe_load(written["compose.node.yaml"].read_text())["services"]["node"]
    assert node["command"] == ["deploy", "node", "/node"] and "ports" not in node
    for service in (services["server"], node):
        assert service["environment"] == {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        assert all(os.sep in mount for mount in service["volumes"])
