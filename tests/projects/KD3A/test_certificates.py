"""A TLS client that trusts the authority alone connects to the right host, and to no other."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading

import pytest
from kd3a.certificates import VALID, keep_certificates, make_certificates


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """The protocol that both agree on."""
    near, far = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(far, server_side=True).close()
        except (ssl.SSLError, OSError):
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=host) as wrapped:
            return wrapped.version()
    finally:
        near.close()
        thread.join()


def test_only_the_named_host_of_the_own_authority_is_trusted(tmp_path):
    files = make_certificates(tmp_path / "own", ["localhost", "127.0.0.1"])
    other = make_certificates(tmp_path / "other", ["localhost"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=files.authority)
    assert handshake(server, client, "localhost") == "TLSv1.3"
    assert handshake(server, client, "127.0.0.1") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client, "elsewhere")
    stranger = ssl.create_default_context(cafile=other.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, stranger, "localhost")


def test_a_certificate_that_parties_trust_is_kept_where_it_still_serves(tmp_path):
    def kept(folder, *hosts):
        return keep_certificates(folder, hosts).authority.read_bytes()

    first = kept(tmp_path, "localhost", "127.0.0.1")
    assert kept(tmp_path, "127.0.0.1") == first
    second = kept(tmp_path, "127.0.0.1", "elsewhere")
    assert second != first
    make_certificates(tmp_path / "other", ["127.0.0.1", "elsewhere"])
    for name in ("server.key", "ca.crt"):  # as of a coordinator that was killed meanwhile
        (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
        third = kept(tmp_path, "elsewhere")
        assert third not in (second, (tmp_path / "other/ca.crt").read_bytes())
        second = third


def test_a_certificate_that_is_soon_out_of_date_is_not_kept(tmp_path, monkeypatch):
    first = keep_certificates(tmp_path, ["localhost"]).authority.read_bytes()
    monkeypatch.setattr("kd3a.certificates._LEFT", VALID + datetime.timedelta(hours=1))
    assert keep_certificates(tmp_path, ["localhost"]).authority.read_bytes() != first


def test_nobody_else_can_read_the_key(tmp_path):
    files = make_certificates(tmp_path, ["localhost"])
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"ca.crt", "server.pem", "server.key"}
