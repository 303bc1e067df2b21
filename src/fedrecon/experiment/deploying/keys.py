"""The keys of a deployment: a certificate authority, the server's certificate, and a key for each node."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from fedrecon._files import make_folder, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.addresses import host_of
from fedrecon.experiment.deploying.certificates import (
    write_authority,
    write_node_key,
    write_server_certificate,
)

# The word that `rotate` takes in place of a node's name.
SERVER = "server"
CA_CERTIFICATE, NODE_KEY = "ca.pem", "node.key"
_CA_KEY, _SERVER_CERTIFICATE, _SERVER_KEY, _REGISTER = "ca.key", "server.pem", "server.key", "nodes.json"
_NAME = "a node's name must be of letters, digits, '-' and '_', and not 'server'"


class KeyState(Enum):
    """Whether a server accepts a node's key."""

    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True)
class RegisteredKey:
    """A key of a node, as the server's machine lists it.

    Attributes:
        node: The node's name.
        public: The public key in OpenSSH's format.
        state: Whether the key is accepted.
        created: When the key was made, in UTC as ISO 8601 writes it.
    """

    node: str
    public: str
    state: KeyState
    created: str


@dataclass(frozen=True)
class Certificates:
    """Files that a server needs for TLS, as Flower and proxies take them.

    Attributes:
        authority: The certificate of the authority, in PEM.
        certificate: The certificate of the server, in PEM.
        key: The private key of the server, in PEM.
    """

    authority: Path
    certificate: Path
    key: Path


class Keys:
    """The keys of a deployment, in a folder on the server's machine.

    `nodes.json` lists the public keys of nodes and their states. Private keys of nodes are not kept in this
    folder: `create_node` writes them where its caller says.

    Args:
        folder: The folder of the keys.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def there(self) -> bool:
        """Whether keys were made."""
        return (self.folder / _REGISTER).exists()

    @property
    def certificates(self) -> Certificates:
        """The files that the server needs for TLS."""
        return Certificates(
            self.folder / CA_CERTIFICATE, self.folder / _SERVER_CERTIFICATE, self.folder / _SERVER_KEY
        )

    def create_authority(self, address: str) -> None:
        """Makes an authority and the server's certificate, if there are none.

        Args:
            address: The address that nodes connect to, HOST:PORT; the certificate is for its host and for
                loopback, where Flower's own processes connect.
        """
        if self.there:
            return
        make_folder(self.folder)
        self.folder.chmod(0o700)
        write_authority(self.folder / CA_CERTIFICATE, self.folder / _CA_KEY)
        self.rotate_server(address)
        self._write([])

    def rotate_server(self, address: str) -> None:
        """Makes a new key and a new certificate for the server, signed by the same authority.

        Args:
            address: The address that nodes connect to, HOST:PORT; the certificate is for its host and for
                loopback.

        Raises:
            RunError: There is no authority.
        """
        files = self.certificates
        try:
            write_server_certificate(
                files.certificate, files.key, host_of(address), files.authority, self.folder / _CA_KEY
            )
        except FileNotFoundError:
            raise self._missing() from None
        except RunError:
            raise
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder}: the authority's files cannot be used: {error}") from None

    def create_node(self, node: str, folder: Path) -> None:
        """Makes a node's key and registers its public half.

        Args:
            node: The name of the node.
            folder: The folder that gets the private key, which only the node may have, and the authority's
                certificate.

        Raises:
            RunError: The node has an active key, or its name is not allowed.
        """
        check_name(node)
        if any(key.node == node for key in self.active()):
            raise RunError(f"a node must have one active key, {node!r} has one; use `rotate` or `revoke`")
        self._create(node, folder, self.registered())

    def rotate_node(self, node: str, folder: Path) -> None:
        """Revokes a node's key and makes a new one.

        Args:
            node: The name of the node.
            folder: The folder that gets the new private key, which only the node may have, and the
                authority's certificate.

        Raises:
            RunError: The node has no active key.
        """
        self._create(node, folder, self._revoked(node))

    def revoke(self, node: str) -> None:
        """Revokes a node's key: the server refuses it from its next look at the list on.

        Raises:
            RunError: The node has no active key.
        """
        self._write(self._revoked(node))

    def registered(self) -> list[RegisteredKey]:
        """All keys of nodes, revoked ones too, in the order in which they were made.

        Raises:
            RunError: There are no keys, or the list cannot be read.
        """
        path = self.folder / _REGISTER
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["nodes"]
            return [RegisteredKey(**{**entry, "state": KeyState(entry["state"])}) for entry in entries]
        except FileNotFoundError:
            raise self._missing() from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}: the list of keys cannot be read: {error}") from None

    def active(self) -> list[RegisteredKey]:
        """The keys that the server accepts."""
        return [key for key in self.registered() if key.state is KeyState.ACTIVE]

    def _missing(self) -> RunError:
        return RunError(
            f"{self.folder}: there are no keys here; make them with `fedrecon deploy keys create`"
        )

    def _revoked(self, node: str) -> list[RegisteredKey]:
        keys = self.registered()
        if not any(key.node == node and key.state is KeyState.ACTIVE for key in keys):
            names = sorted(key.node for key in self.active())
            raise RunError(f"nodes with an active key are {names}, got {node!r}")
        return [
            RegisteredKey(key.node, key.public, KeyState.REVOKED, key.created) if key.node == node else key
            for key in keys
        ]

    def _create(self, node: str, folder: Path, others: list[RegisteredKey]) -> None:
        make_folder(folder)
        public = write_node_key(folder / NODE_KEY)
        write_atomically(folder / CA_CERTIFICATE, (self.folder / CA_CERTIFICATE).read_bytes())
        created = datetime.now(UTC).isoformat(timespec="seconds")
        self._write([*others, RegisteredKey(node, public, KeyState.ACTIVE, created)])

    def _write(self, keys: list[RegisteredKey]) -> None:
        entries = [{**asdict(key), "state": key.state.value} for key in keys]
        write_atomically(self.folder / _REGISTER, json.dumps({"nodes": entries}, indent=1) + "\n")


def check_name(node: str) -> str:
    """The name of a node, which is also that of its folder.

    Raises:
        RunError: The name is not allowed.
    """
    plain = node.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum() and node != SERVER):
        raise RunError(f"{_NAME}, got {node!r}")
    return node
