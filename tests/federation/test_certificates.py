"""Keys as files."""

import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated': make test-federated")

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgewise.federation.flower.certificates import make_certificates, make_node_key


def test_a_key_that_was_open_to_all_is_not_after_it_is_made_anew(tmp_path):
    made = make_certificates(tmp_path, ["127.0.0.1"])
    secret, _ = make_node_key(tmp_path, "a")
    for path in (made.key, secret):
        path.chmod(0o644)
        kept = path.with_suffix(".kept")
        kept.hardlink_to(path)  # whoever holds the old file does not see the new one
        kept.write_bytes(b"old")
    make_certificates(tmp_path, ["127.0.0.1"])
    make_node_key(tmp_path, "a")
    for path in (made.key, secret):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.with_suffix(".kept").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["server", "ca"])
def test_a_device_may_be_called_what_the_superlinks_files_are(tmp_path, name):
    made = make_certificates(tmp_path, ["127.0.0.1"])
    make_node_key(tmp_path, name)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    key = load_pem_private_key(made.key.read_bytes(), None)
    assert certificate.public_key() == key.public_key()
