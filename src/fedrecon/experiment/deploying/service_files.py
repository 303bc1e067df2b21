"""Files for real machines: a proxy that passes on what nodes need, systemd units, and Compose files."""

import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from fedrecon._files import make_folder, write_atomically
from fedrecon.experiment.deploying.addresses import is_loopback, split_address
from fedrecon.experiment.deploying.flower_processes import QUIET
from fedrecon.experiment.deploying.keys import Certificates
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.preparing import keys_of
from fedrecon.experiment.settings.sections import SettingError

FILES = "files"
# Where the units of nodes, whose machines nobody has seen yet, look for the programs.
_PROGRAM = "/usr/local/bin/fedrecon"
# Paths of Flower's interface for nodes. Those of the operator, which can run code on all nodes, begin with
# /v1/control/, and those of its processes with /v1/runtime/.
_PATHS = "^/v1/fleet/[a-z-]+$"
# Flower cuts messages into parts of 5 MiB.
_MOST_MEBIBYTES = 64
_TIMEOUT = 300

_NGINX = """\
# Passes on what nodes need and nothing else: whoever reaches Flower's control interface can run code on all
# nodes. Test it with `nginx -t -c FILE`.
events {{}}
http {{
  server {{
    listen {listen} ssl;
    server_name {host};
    ssl_certificate "{certificate}";
    ssl_certificate_key "{key}";
    ssl_protocols TLSv1.2 TLSv1.3;
    server_tokens off;
    client_max_body_size {mebibytes}m;
    location ~ {paths} {{
      limit_except POST {{ deny all; }}
      # The path that was matched, and not the one that came: it may be written in another way.
      proxy_pass https://127.0.0.1:{superlink}$uri;
      proxy_http_version 1.1;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate "{authority}";
      proxy_ssl_name localhost;
      proxy_read_timeout {timeout}s;
      proxy_send_timeout {timeout}s;
    }}
    location / {{ return 403; }}
  }}
}}
"""
_CADDY = """\
# Passes on what nodes need and nothing else: whoever reaches Flower's control interface can run code on all
# nodes. Test it with `caddy validate --adapter caddyfile --config FILE`.
{{
	admin off
	auto_https disable_redirects
}}
https://{name}:{listen} {{
	tls "{certificate}" "{key}"
	@nodes {{
		method POST
		path_regexp {paths}
	}}
	handle @nodes {{
		request_body {{
			max_size {mebibytes}MB
		}}
		reverse_proxy https://127.0.0.1:{superlink} {{
			transport http {{
				tls_trusted_ca_certs "{authority}"
				tls_server_name localhost
				read_timeout {timeout}s
			}}
		}}
	}}
	handle {{
		respond 403
	}}
}}
"""
_UNIT = """\
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target

[Service]
User=fedrecon
ExecStart={command}
{environment}
Restart={restart}
RestartSec=10
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths={writable}

[Install]
WantedBy=multi-user.target
"""
_DOCKERFILE = """\
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends procps && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir 'fedrecon[flower,privacy]=={version}'
RUN useradd --create-home --uid 1000 fedrecon
USER fedrecon
ENTRYPOINT ["fedrecon"]
"""
# The proxy is in the network of the server's container, whose loopback no other container reaches.
_COMPOSE_SERVER = """\
services:
  server:
    build: .
    command: [deploy, server, "{folder}"]
    init: true
    restart: on-failure
    environment:
{environment}
    ports: ["{listen}:{listen}"]
    volumes: ["{folder}:{folder}"]
  proxy:
    image: nginx:stable
    restart: unless-stopped
    network_mode: "service:server"
    depends_on: [server]
    volumes:
      - "./nginx.conf:/etc/nginx/nginx.conf:ro"
      - "{keys}:{keys}:ro"
"""
_COMPOSE_NODE = """\
services:
  node:
    build: .
    command: [deploy, node, /node]
    init: true
    restart: unless-stopped
    environment:
{environment}
    volumes: ["${{NODE_FOLDER:?the folder of the node}}:/node"]
"""


def nginx_config(listen: int, host: str, superlink: int, certificates: Certificates) -> str:
    """A configuration of nginx.

    Args:
        listen: The port that nodes connect to.
        host: The name or the IP address that nodes connect to.
        superlink: The port of Flower's SuperLink on loopback.
        certificates: The files for TLS.
    """
    return _proxy_config(_NGINX, listen, host, superlink, certificates)


def caddy_config(listen: int, host: str, superlink: int, certificates: Certificates) -> str:
    """A configuration of Caddy; see `nginx_config`."""
    return _proxy_config(_CADDY, listen, host, superlink, certificates)


def write_files(folder: Path) -> list[Path]:
    """Writes the files for a deployment's machines.

    Args:
        folder: The folder of the server.

    Returns:
        The files.

    Raises:
        RunError: The folder is not that of a server, or has no keys.
        SettingError: The address is of loopback.
    """
    folder = folder.absolute()
    plan, keys = DeploymentPlan.read(folder), keys_of(folder)
    keys.active()
    if is_loopback(plan.address):
        raise SettingError(
            f"{folder}: a proxy is for an address outside loopback, here it is {plan.address}; nodes of this "
            f"machine connect to the SuperLink itself"
        )
    host, listen = split_address(plan.address)
    proxied = (listen, host, plan.superlink_port, keys.certificates)
    environment = "\n".join(f'      {name}: "{value}"' for name, value in QUIET.items())
    places = {"folder": folder, "keys": keys.folder, "listen": listen, "environment": environment}
    texts = {
        "nginx.conf": nginx_config(*proxied),
        "Caddyfile": caddy_config(*proxied),
        "fedrecon-server.service": _unit("The server of a federation", ["server", str(folder)], folder),
        # systemd puts what is behind the @ of a unit's name in place of %i.
        "fedrecon-node@.service": _unit("A node of a federation", ["node", "/var/lib/fedrecon/%i"], None),
        "Dockerfile": _DOCKERFILE.format(version=version("fedrecon")),
        "compose.server.yaml": _COMPOSE_SERVER.format(**places),
        "compose.node.yaml": _COMPOSE_NODE.format(**places),
    }
    make_folder(folder / FILES)
    for name, text in texts.items():
        write_atomically(folder / FILES / name, text)
    return [folder / FILES / name for name in texts]


def _proxy_config(template: str, listen: int, host: str, superlink: int, certificates: Certificates) -> str:
    return template.format(
        listen=listen,
        host=host,
        name=f"[{host}]" if ":" in host else host,
        superlink=superlink,
        certificate=certificates.certificate,
        key=certificates.key,
        authority=certificates.authority,
        paths=_PATHS,
        mebibytes=_MOST_MEBIBYTES,
        timeout=_TIMEOUT,
    )


def _unit(description: str, words: list[str], folder: Path | None) -> str:
    program = [_PROGRAM] if folder is None else [sys.executable, "-m", "fedrecon"]
    command = [*program, "deploy", *words]
    return _UNIT.format(
        description=description,
        command=shlex.join(command),
        environment="\n".join(f"Environment={name}={value}" for name, value in QUIET.items()),
        # A server has done its work when the rounds are over; a node waits for the next run.
        restart="always" if folder is None else "on-failure",
        writable=folder or "/var/lib/fedrecon/%i",
    )
