"""The keys of a deployment: a certificate authority, the server's certificate, and a key for each node.

The library `cryptography` makes them; it is installed together with Flower.
"""

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon._files import atomic_file, make_folder, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.addresses import host_of

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

# The word that `rotate` takes in place of a node's name.
SERVER = "server"
CA_CERTIFICATE, NODE_KEY = "ca.pem", "node.key"
_CA_KEY, _SERVER_CERTIFICATE, _SERVER_KEY, _REGISTER = "ca.key", "server.pem", "server.key", "nodes.json"
_NAME = "a node's name must be of letters, digits, '-' and '_', and not 'server'"
_CA_DAYS, _SERVER_DAYS = 3650, 397
# Certificates are valid from a little earlier on, for nodes whose clocks are late.
_CLOCK = timedelta(hours=1)


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
        from cryptography import x509

        key = _new_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedrecon test authority")])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = _builder(name, name, key, key, _CA_DAYS).add_extension(usage, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        _write_private(self.folder / _CA_KEY, _pem(key))
        _write_certificate(self.folder / CA_CERTIFICATE, builder, key)
        self.rotate_server(address)
        self._write([])

    def rotate_server(self, address: str) -> None:
        """Makes a new key and a new certificate for the server, signed by the same authority.

        Args:
            address: See `create_authority`.

        Raises:
            RunError: There is no authority.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            authority = x509.load_pem_x509_certificate((self.folder / CA_CERTIFICATE).read_bytes())
            signing = load_pem_private_key((self.folder / _CA_KEY).read_bytes(), None)
        except (OSError, ValueError):
            raise self._missing() from None
        key = _new_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedrecon server")])
        builder = _builder(subject, authority.subject, key, signing, _SERVER_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        purposes = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(purposes, critical=False)
        names = x509.SubjectAlternativeName(_alternative_names(host_of(address)))
        _write_private(self.folder / _SERVER_KEY, _pem(key))
        _write_certificate(
            self.folder / _SERVER_CERTIFICATE, builder.add_extension(names, critical=False), signing
        )

    def create_node(self, node: str, folder: Path) -> None:
        """Makes a node's key and registers its public half.

        Args:
            node: The name of the node.
            folder: The folder that gets the private key, which only the node may have, and the authority's
                certificate.

        Raises:
            RunError: The node has an active key, or its name is not allowed.
        """
        if not _is_name(node):
            raise RunError(f"{_NAME}, got {node!r}")
        if any(key.node == node for key in self.active()):
            raise RunError(f"a node must have one active key, {node!r} has one; use `rotate` or `revoke`")
        self._create(node, folder, self.registered())

    def rotate_node(self, node: str, folder: Path) -> None:
        """Revokes a node's key and makes a new one.

        Args:
            node: The name of the node.
            folder: See `create_node`.

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
        return RunError(f"{self.folder}: there are no keys here; make them with `fedrecon deploy keys create`")

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
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        key = _new_key()
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        make_folder(folder)
        _write_private(
            folder / NODE_KEY, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        )
        write_atomically(folder / CA_CERTIFICATE, (self.folder / CA_CERTIFICATE).read_bytes())
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._write([*others, RegisteredKey(node, public, KeyState.ACTIVE, created)])

    def _write(self, keys: list[RegisteredKey]) -> None:
        entries = [{**asdict(key), "state": key.state.value} for key in keys]
        write_atomically(self.folder / _REGISTER, json.dumps({"nodes": entries}, indent=1) + "\n")


def _is_name(node: str) -> bool:
    plain = node.replace("-", "").replace("_", "")
    return plain.isascii() and plain.isalnum() and node != SERVER


def _new_key() -> "EllipticCurvePrivateKey":
    """A key on the curve P-384, which Flower's authentication of nodes takes.

    Raises:
        RunError: The library that makes keys is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise RunError("keys need a library that comes with Flower: pip install 'fedrecon[flower]'") from None
    return ec.generate_private_key(ec.SECP384R1())


def _builder(
    subject: "x509.Name",
    issuer: "x509.Name",
    key: "EllipticCurvePrivateKey",
    signing: "EllipticCurvePrivateKey",
    days: int,
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - _CLOCK).not_valid_after(now + timedelta(days=days))
    subject_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    return builder.add_extension(subject_id, critical=False).add_extension(issuer_id, critical=False)


def _usage(**purposes: bool) -> "x509.KeyUsage":
    from cryptography import x509

    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    every: Mapping[str, bool] = dict.fromkeys(names, False)
    return x509.KeyUsage(**{**every, **purposes})


def _alternative_names(host: str) -> "list[x509.GeneralName]":
    from cryptography import x509

    names: list[x509.GeneralName] = []
    for one in dict.fromkeys((host, "localhost", "127.0.0.1", "::1")):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(one)))
        except ValueError:
            names.append(x509.DNSName(one))
    return names


def _pem(key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_certificate(
    path: Path, builder: "x509.CertificateBuilder", signing: "EllipticCurvePrivateKey"
) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = builder.sign(signing, hashes.SHA384())
    write_atomically(path, certificate.public_bytes(Encoding.PEM))


def _write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read at every moment."""
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
