"""Certificates of a coordinator that parties know by no public authority: an authority of its own.

For a demonstration and for a closed network. Whoever has the authority's key can stand in for the
coordinator, so it is not written anywhere.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=30)
_LEFT = datetime.timedelta(days=1)  # that a certificate which is kept is still valid


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: what parties trust, what the coordinator shows, and its private key."""

    authority: Path
    certificate: Path
    key: Path


def keep_certificates(folder: Path, hosts: Sequence[str]) -> Certificates:
    """The certificate in `folder`, which parties trust already, where it is one for `hosts`; else
    one that is made."""
    files = _files(folder)
    return files if _serve(files, hosts) else make_certificates(folder, hosts)


def make_certificates(folder: Path, hosts: Sequence[str]) -> Certificates:
    """Make a certificate for a coordinator at `hosts` (names or addresses), valid for 30 days."""
    files = _files(folder)
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = (
        _certificate("Seriatim federation", "Seriatim federation", authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([_name_of(host) for host in hosts])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    own = (
        _certificate(hosts[0], "Seriatim federation", server.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(names, critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    files.authority.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))
    files.key.touch(mode=0o600)
    files.key.write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def _files(folder: Path) -> Certificates:
    return Certificates(folder / "ca.crt", folder / "server.pem", folder / "server.key")


def _serve(files: Certificates, hosts: Sequence[str]) -> bool:
    """Whether these files are whole, belong together, and are for `hosts` and for now."""
    try:
        authority, own = (
            x509.load_pem_x509_certificate(path.read_bytes())
            for path in (files.authority, files.certificate)
        )
        own.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    except (OSError, ValueError, InvalidSignature):
        return False
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        key.public_key() == own.public_key()
        and {_name_of(host) for host in hosts} <= {*names}
        and own.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > _LEFT
    )


def _certificate(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
