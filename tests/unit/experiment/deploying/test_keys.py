"""Keys, addresses, settings and files of a deployment on several machines, before any process starts."""

import json
import ssl
import stat
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from fedrecon.algorithms._base import Update
from fedrecon.core._mean import Mean
from fedrecon.data._sampling import Everyone
from fedrecon.deployment._rounds import STATE
from fedrecon.deployment._server import Server
from fedrecon.errors import DataError, RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.deploying.addresses import is_loopback, split_address
from fedrecon.experiment.deploying.keys import Certificates, Keys, KeyState
from fedrecon.experiment.deploying.node import NodeSettings, run_node
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.preparing import create_keys
from fedrecon.experiment.deploying.server import run_server, write_parameters
from fedrecon.experiment.deploying.service_files import caddy_config, nginx_config, write_files
from fedrecon.experiment.deploying.settings import DeploymentSettings, read_settings, write_settings
from fedrecon.experiment.deploying.status import status_of
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import read_json
from fedrecon.privacy._ledger import Ledger

OUTSIDE, INSIDE = "fed.example.org:8443", "127.0.0.1:8000"
SETTINGS = ["task=movielens", "data.path=x", "model.factors=3", "model.global_bias=3.5"]
PRIVATE = ["privacy.noise_multiplier=1.0", "privacy.clip=0.5", "privacy.delta=1e-3"]
PRIVATE += ["algorithm.client_weight=uniform", "training.sampling=everyone"]


def plan(*changes, address=OUTSIDE, **fields):
    config = configs.load(None, [*SETTINGS, *changes])
    return DeploymentPlan("spring", config.model_dump(), {"item": ["a"]}, 4, address=address, **fields)


@pytest.fixture
def keys(tmp_path):
    pytest.importorskip("cryptography")
    keys = Keys(tmp_path / "keys")
    keys.create_authority(OUTSIDE)
    return keys


@pytest.mark.parametrize(
    ("address", "host", "port", "loopback"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("127.8.0.1:1", "127.8.0.1", 1, True),
        ("[::1]:443", "::1", 443, True),
        ("localhost:443", "localhost", 443, True),
        ("localhost.example.org:443", "localhost.example.org", 443, False),
        ("10.0.0.1:443", "10.0.0.1", 443, False),
        ("0.0.0.0:443", "0.0.0.0", 443, False),
        ("[2001:db8::1]:443", "2001:db8::1", 443, False),
    ],
)
def test_addresses(address, host, port, loopback):
    assert split_address(address) == (host, port)
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":443", "host:0", "host:65536", "::1:443", "a b:443", "a;b:443", "a/b:443"],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(RunError, match="address must be HOST:PORT"):
        split_address(address)


def test_single_persons_leave_loopback_only_with_noise_or_by_consent():
    plan(address=INSIDE).check_protection(INSIDE)
    plan(accept_row_leak=True).check_protection(OUTSIDE)
    plan(one_person_per_client=False).check_protection(OUTSIDE)
    plan(*PRIVATE).check_protection(OUTSIDE)
    for somewhere in (plan(), plan(address=INSIDE)):
        with pytest.raises(SettingError, match=r"accept_row_leak must be true outside loopback, here fed"):
            somewhere.check_protection(OUTSIDE)


def test_server_and_node_do_not_start_without_protection(tmp_path):
    plan().write(tmp_path)
    (tmp_path / "node.toml").write_text(f'data = "x"\nsuperlink = "{OUTSIDE}"\n')
    with pytest.raises(SettingError, match="accept_row_leak must be true"):
        run_server(tmp_path, print)
    with pytest.raises(SettingError, match="authority and key must both name files outside loopback"):
        run_node(tmp_path)
    for name in ("ca.pem", "node.key"):
        (tmp_path / name).touch(mode=0o600)
    with open(tmp_path / "node.toml", "a") as file:
        file.write('authority = "ca.pem"\nkey = "node.key"\n')
    with pytest.raises(SettingError, match="accept_row_leak must be true"):
        run_node(tmp_path)


def test_server_outside_loopback_needs_keys(tmp_path):
    plan(accept_row_leak=True).write(tmp_path)
    with pytest.raises(SettingError, match=r"a server outside loopback, here fed.*must have keys"):
        run_server(tmp_path, print)


def test_private_plan_has_noise(tmp_path):
    pytest.importorskip("dp_accounting")
    one = plan(*PRIVATE, num_clients=100, public_inputs={"items": "a catalogue"})
    privacy = one.algorithm().privacy
    assert (privacy.noise_multiplier, privacy.num_clients, privacy.rounds) == (1.0, 100, 4)
    assert dict(privacy.public_inputs) == {"items": "a catalogue"}
    assert plan().algorithm().privacy is None


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (["training.sampling=fixed_passes", "training.clients_per_round=10"], "got 4 and 'none'"),
        (["privacy.clip_quantile=0.5"], r"got 1 and 0\.5"),
    ],
)
def test_noise_that_a_deployment_lacks_is_refused(change, got):
    bands = ["privacy.noise_bands=4"] if "quantile" not in change[0] else []
    with pytest.raises(SettingError, match=f"set privacy.noise_bands = 1 and privacy.clip_quantile.*{got}"):
        plan(*PRIVATE, *change, *bands, num_clients=40).algorithm()


def test_rounds_are_those_that_the_budget_pays_for(tmp_path):
    whole = plan(*PRIVATE, num_clients=100)
    budget = whole.algorithm().privacy.epsilon(2)
    assert whole.affordable_rounds() == 4 and plan().affordable_rounds() == 4
    short = plan(*PRIVATE, f"privacy.budget={budget}", num_clients=100)
    assert short.affordable_rounds() == 2
    short.write(tmp_path)
    assert status_of(tmp_path) == "0 of 2 rounds done, 0 begun again"


def test_parameters_of_a_private_deployment_come_with_their_ledger(tmp_path):
    private = plan(*PRIVATE, num_clients=2, public_inputs={"items": "a catalogue"})
    algorithm = private.algorithm()
    server = Server(algorithm, ["ann", "bob"], Everyone(), run=private.run)
    for _ in range(2):
        for client in server.cohort():
            zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), server.state.global_params)
            assert server.add(client, Update(Mean(zeros, np.float32(1)), {}, {})) is None
        assert server.step().released
    server.checkpoint(tmp_path / STATE)
    write_parameters(private, tmp_path)
    assert (tmp_path / "global_params.npz").exists()
    ledger = Ledger.from_values(read_json(tmp_path / "privacy.json"))
    assert ledger == algorithm.privacy.ledger(2) and ledger.releases == 2


def test_certificate_is_for_the_server_and_its_authority_for_nobody_else(keys, tmp_path):
    """A handshake as Flower's processes make it; each file of a private key is its owner's alone."""
    files = keys.certificates
    for path in (files.key, keys.folder / "ca.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    for name in ("fed.example.org", "localhost", "127.0.0.1"):
        assert handshake(files, files.authority, name)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for"):
        handshake(files, files.authority, "example.org")
    others = Keys(tmp_path / "others")
    others.create_authority(OUTSIDE)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, others.certificates.authority, "localhost")
    before = files.certificate.read_bytes()
    keys.rotate_server("10.0.0.1:443")
    assert files.certificate.read_bytes() != before and handshake(files, files.authority, "10.0.0.1")


def handshake(files: Certificates, authority: Path, name: str) -> bool:
    """A handshake in memory; the client's errors are raised."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ends[0].version() is not None


def test_node_keys_have_states(keys, tmp_path):
    keys.create_node("north", tmp_path / "north")
    with pytest.raises(RunError, match=r"'north' has one"):
        keys.create_node("north", tmp_path / "north")
    first = (tmp_path / "north" / "node.key").read_bytes()
    assert first.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert stat.S_IMODE((tmp_path / "north" / "node.key").stat().st_mode) == 0o600
    keys.rotate_node("north", tmp_path / "north")
    assert (tmp_path / "north" / "node.key").read_bytes() != first
    assert [key.state for key in keys.registered()] == [KeyState.REVOKED, KeyState.ACTIVE]
    keys.revoke("north")
    assert keys.active() == []
    for change in (keys.revoke, lambda node: keys.rotate_node(node, tmp_path / "north")):
        with pytest.raises(RunError, match=r"nodes with an active key are \[\], got 'north'"):
            change("north")
    text = (keys.folder / "nodes.json").read_text()
    assert "PRIVATE" not in text and text.count("ecdsa-sha2-nistp384") == 2
    keys.create_authority(OUTSIDE)  # a second call changes nothing
    assert (keys.folder / "nodes.json").read_text() == text


@pytest.mark.parametrize("name", ["", "server", "a/b", "..", "a b", "é"])
def test_names_of_nodes(keys, tmp_path, name):
    with pytest.raises(RunError, match="a node's name must be of letters"):
        keys.create_node(name, tmp_path / "node")
    assert not (tmp_path / "node").exists()


def test_lists_of_keys_that_cannot_be_read(keys, tmp_path):
    with pytest.raises(RunError, match="there are no keys here"):
        Keys(tmp_path).active()
    with pytest.raises(RunError, match="there are no keys here"):
        Keys(tmp_path).rotate_server(OUTSIDE)
    (keys.folder / "nodes.json").write_text(json.dumps({"nodes": [{"state": "maybe"}]}))
    with pytest.raises(RunError, match=r"nodes\.json: the list of keys cannot be read"):
        keys.active()


def test_settings_come_with_their_meanings_and_are_checked(tmp_path):
    assert read_settings(tmp_path) == DeploymentSettings()
    write_settings(tmp_path)
    text = (tmp_path / "deployment.toml").read_text()
    assert read_settings(tmp_path) == DeploymentSettings()
    assert tomllib.loads(text) == DeploymentSettings().model_dump()
    assert text.count("# ") == len(DeploymentSettings.model_fields)
    for line, message in (
        ("nodes = 0", "nodes"),
        ("acept_row_leak = true", "accept_row_leak"),
        ("=", "read"),
    ):
        (tmp_path / "deployment.toml").write_text(line)
        with pytest.raises(SettingError, match=rf"deployment\.toml.*{message}"):
            read_settings(tmp_path)


def test_settings_of_nodes(tmp_path):
    def written(text):
        (tmp_path / "node.toml").write_text(text)
        return NodeSettings.read(tmp_path)

    with pytest.raises(SettingError, match="superlink must be the address"):
        written('data = "x"').access(tmp_path)
    with pytest.raises(DataError, match="the key 'data' must name"):
        written('client = "user"')
    with pytest.raises(DataError, match="name must be a string, got 3"):
        written('data = "x"\nname = 3')
    local = f'data = "x"\nsuperlink = "{INSIDE}"\n'
    assert written(local).access(tmp_path) is None
    with pytest.raises(SettingError, match="authority and key must both"):
        written(local + 'key = "node.key"').access(tmp_path)
    both = written(local + 'key = "node.key"\nauthority = "ca.pem"')
    with pytest.raises(SettingError, match=r"there is no file .*ca\.pem"):
        both.access(tmp_path)
    (tmp_path / "ca.pem").touch()
    (tmp_path / "node.key").touch(mode=0o644)
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(SettingError, match="others may read this private key"):
        both.access(tmp_path)
    (tmp_path / "node.key").chmod(0o600)
    assert both.access(tmp_path).key == tmp_path / "node.key"


def test_files_for_machines(keys, tmp_path, capsys):
    plan(accept_row_leak=True).write(tmp_path)
    assert [folder.name for folder in create_keys(tmp_path, ("north",))] == ["north"]
    assert NodeSettings.read(tmp_path / "nodes" / "north").superlink == OUTSIDE
    assert main(["deploy", "files", str(tmp_path)]) == 0
    paths = {path.name: path.read_text() for path in (tmp_path / "files").iterdir()}
    assert set(capsys.readouterr().out.split()) == {str(tmp_path / "files" / name) for name in paths}
    for name in ("fedrecon-server.service", "fedrecon-node@.service"):
        assert "Environment=FLWR_TELEMETRY_ENABLED=0" in paths[name]
        assert "Environment=FLWR_DISABLE_UPDATE_CHECK=1" in paths[name]
    for name in ("compose.server.yaml", "compose.node.yaml"):
        assert 'FLWR_TELEMETRY_ENABLED: "0"' in paths[name]
        assert 'FLWR_DISABLE_UPDATE_CHECK: "1"' in paths[name]
    # The SuperLink's own port, by which anyone can run code on nodes, is published nowhere.
    assert '"8443:8443"' in paths["compose.server.yaml"] and "8000" not in paths["compose.server.yaml"]
    assert "listen 8443 ssl" in paths["nginx.conf"]
    assert "https://fed.example.org:8443" in paths["Caddyfile"]
    plan(address=INSIDE).write(tmp_path)
    with pytest.raises(SettingError, match="a proxy is for an address outside loopback"):
        write_files(tmp_path)


@pytest.mark.parametrize("config", [nginx_config, caddy_config])
def test_proxies_name_one_interface_alone(config):
    text = config(8443, "2001:db8::1", 8000, Certificates(Path("ca"), Path("cert"), Path("key")))
    assert text.count("/v1/fleet/[a-z-]+$") == 1
    assert "/v1/control" not in text.replace("/v1/control/,", "") and "403" in text
    assert text.count("{") == text.count("}")


def test_keys_by_commands(keys, tmp_path, capsys):
    plan(accept_row_leak=True).write(tmp_path)
    assert main(["deploy", "keys", "create", str(tmp_path), "north", "south"]) == 0
    assert main(["deploy", "keys", "rotate", str(tmp_path), "north"]) == 0
    assert main(["deploy", "keys", "rotate", str(tmp_path), "server"]) == 0
    assert main(["deploy", "keys", "revoke", str(tmp_path), "south"]) == 0
    assert main(["deploy", "keys", "revoke", str(tmp_path), "west"]) != 0
    assert "nodes with an active key are ['north'], got 'west'" in capsys.readouterr().err
    assert [key.node for key in keys.active()] == ["north"]


def test_prepared_server_has_no_examples_and_needs_a_port_of_its_own(tmp_path, capsys):
    lines = ["userId,movieId,rating,timestamp"]
    lines += [f"{user},{item},3.5,{item}" for user in range(20) for item in range(10)]
    (tmp_path / "ratings.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "movies.dat").write_text("".join(f"{item}::Film (1995)::Drama\n" for item in range(10)))
    app, data = tmp_path / "app", str(tmp_path / "ratings.csv")
    changes = [
        word for text in ("task=movielens", "training.clients_per_round=4") for word in ("--set", text)
    ]
    experiment = tmp_path / "e.toml"
    experiment.write_text('model.global_bias = "mean"\ntask = "movielens"\n')
    assert main(["deploy", "init", str(app), "--experiment", str(experiment), *changes]) == 0
    words = ["deploy", "prepare", str(app), "--data", data, "--out"]
    (app / "deployment.toml").write_text('address = "fed.example.org:8000"\naccept_row_leak = true\n')
    assert main([*words, str(tmp_path / "one")]) != 0
    (app / "deployment.toml").write_text(f'address = "{OUTSIDE}"\n')
    assert main([*words, str(tmp_path / "two")]) != 0 and not (tmp_path / "two").exists()
    (app / "deployment.toml").write_text(f'address = "{OUTSIDE}"\naccept_row_leak = true\nnodes = 3\n')
    assert main([*words, str(tmp_path / "three")]) == 0
    written = DeploymentPlan.read(tmp_path / "three")
    assert (written.nodes, written.address, written.accept_row_leak) == (3, OUTSIDE, True)
    assert written.config().model.global_bias == pytest.approx(3.5)
    assert sorted(path.name for path in (tmp_path / "three").iterdir()) == ["app", "deployment.json"]
    assert main([*words, str(tmp_path / "three")]) != 0
    private = [word for text in PRIVATE for word in ("--set", text)]
    assert main([*words, str(tmp_path / "four"), *private]) != 0
    assert "model.global_bias must be a public number" in capsys.readouterr().err
    private += ["--set", "model.global_bias=3.5"]
    assert main([*words, str(tmp_path / "four"), *private, "--set", "privacy.clip_quantile=0.5"]) != 0
    assert "a deployment has neither correlated noise nor an adaptive" in capsys.readouterr().err
    assert not (tmp_path / "four").exists()
    with open(app / "deployment.toml", "a") as file:
        file.write("num_clients = 500\n")
    assert main([*words, str(tmp_path / "four"), *private]) == 0
    assert DeploymentPlan.read(tmp_path / "four").algorithm().privacy.num_clients == 500
