"""Certificates for TLS and keys of nodes, made with `cryptography`, which comes with Flower."""

import ipaddress
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon._files import atomic_file, write_atomically
from fedrecon.errors import RunError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_AUTHORITY_DAYS, _SERVER_DAYS = 3650, 397
# Certificates are valid from a little earlier on, for nodes whose clocks are late.
_CLOCK = timedelta(hours=1)


def write_authority(certificate: Path, key: Path) -> None:
    """Makes a certificate authority.

    Args:
        certificate: The file that gets its certificate, in PEM.
        key: The file that gets its private key, in PEM.

    Raises:
        RunError: The library that makes keys is not installed.
    """
    private = _new_key()
    from cryptography import x509

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedrecon test authority")])
    builder = _builder(name, name, private, private, _AUTHORITY_DAYS)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write_private(key, _pem(private))
    _write_certificate(certificate, builder, private)


def write_server_certificate(
    certificate: Path, key: Path, host: str, authority: Path, authority_key: Path
) -> None:
    """Makes a server's certificate.

    Args:
        certificate: The file that gets the certificate, in PEM.
        key: The file that gets its private key, in PEM.
        host: The name or the IP address that nodes connect to; the certificate is also for loopback, where
            the server's own processes connect.
        authority: The file with the authority's certificate.
        authority_key: The file with the authority's private key.

    Raises:
        OSError: A file of the authority cannot be read.
        RunError: The library that makes keys is not installed.
        ValueError: A file of the authority is none.
    """
    private = _new_key()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    signing = load_pem_private_key(authority_key.read_bytes(), None)
    if not isinstance(signing, EllipticCurvePrivateKey):
        raise ValueError("the authority's key must be of an elliptic curve")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedrecon server")])
    builder = _builder(subject, issuer.subject, private, signing, _SERVER_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(purposes, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
    _write_private(key, _pem(private))
    _write_certificate(certificate, builder, signing)


def write_node_key(key: Path) -> str:
    """Makes a key that authenticates a node.

    Args:
        key: The file that gets the private key, in OpenSSH's format.

    Returns:
        The public key in OpenSSH's format.

    Raises:
        RunError: The library that makes keys is not installed.
    """
    private = _new_key()
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    _write_private(key, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


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

    now = datetime.now(UTC)
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
