"""Certificates of the moment, by openssl."""

import pathlib
import subprocess


def make(directory, name="127.0.0.1"):
    """An authority and a server's certificate by it: (authority, certificate, key), files."""
    directory = pathlib.Path(directory)
    authority, authority_key = directory / "ca.pem", directory / "ca.key"
    request, certificate, key = (directory / f"server.{kind}" for kind in ("csr", "pem", "key"))
    extension = directory / "server.ext"
    extension.write_text(f"subjectAltName=IP:{name},DNS:localhost,DNS:*.localhost\n")

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", authority_key, "-out", authority, "-days", "2",
            "-subj", "/CN=test authority")
    openssl("req", "-new", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=test server")
    openssl("x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key,
            "-CAcreateserial", "-days", "2", "-extfile", extension, "-out", certificate)
    return authority, certificate, key
