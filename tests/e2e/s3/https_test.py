"""Reading from a plain web server, and S3 over TLS, with an authority of one's own."""

import pathlib
import tempfile

from harness import certificates
from harness.s3_server import S3Server
from harness.web_server import WebServer
from tool import StoreTest, pattern

MIB = 1 << 20


class HttpsTest(StoreTest):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="teq-https-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.authority, self.certificate, self.key = certificates.make(self.directory)
        self.web = WebServer(self.certificate, self.key)
        self.addCleanup(self.web.close)
        self.environment = {"SSL_CERT_FILE": str(self.authority)}
        self.store = self.open(f"{self.web.url}/models/my%20llama", self.environment)

    def serve(self, name, content):
        self.web.files["models/my llama/" + name] = content

    def assert_downloads(self, name, content):
        target = self.directory / "got"
        self.store("get", name, target)
        self.assertEqual(target.read_bytes(), content)

    def test_files_are_read_whole_and_in_ranges(self):
        content = pattern(self.directory / "file", 40 * MIB).read_bytes()
        self.serve("a+b %.bin", content)
        self.serve("empty", b"")
        self.serve("small", b"0123456789")
        self.assertEqual(self.store("head", "a+b %.bin")["bytes"], 40 * MIB)
        self.assert_downloads("a+b %.bin", content)
        self.assert_downloads("empty", b"")
        self.assertEqual(self.store("read", "small", 3, 4, "")["content"], "3456")
        ranges = {headers.get("range") for method, path, headers in self.web.requests}
        self.assertIn(f"bytes={16 * MIB}-{32 * MIB - 1}", ranges)

    def test_broken_answers_are_continued(self):
        content = pattern(self.directory / "file", 20 * MIB).read_bytes()
        self.serve("f", content)
        for fault in ("half", "reset", 500, 503, 429):
            self.web.faults = [fault] * 2
            self.assert_downloads("f", content)
            self.assertEqual(self.web.faults, [])

    def test_file_that_changes_between_ranges_is_noticed(self):
        content = pattern(self.directory / "file", 20 * MIB).read_bytes()
        self.serve("f", content)
        self.web.faults = ["half", "change"]
        self.assert_fails("OBJECT_CHANGED", "another file by now", self.store, "get", "f",
                          self.directory / "got")
        self.assertFalse((self.directory / "got").exists())

    def test_each_failure_says_so(self):
        uri = f"{self.web.url}/models/my%20llama"
        self.assert_fails("OBJECT_NOT_FOUND", f"{uri}/none: there is no such file", self.store,
                          "head", "none")
        self.assert_fails("READ_ONLY_STORE", "takes nothing", self.store, "write", "k", "x")
        self.assert_fails("READ_ONLY_STORE", "takes nothing", self.store, "rm", "k")
        self.assert_fails("NOT_LISTABLE", "does not list", self.store, "list", "")
        self.assert_fails("NOT_PRESIGNABLE", "signs nothing", self.store, "presign", "k", 60)
        self.serve("f", b"0123456789")
        self.assert_fails("RANGE_BEYOND_END", "fewer bytes", self.store, "read", "f", 20, 1, "")
        self.web.faults = [403]
        self.assert_fails("OBJECT_ACCESS_DENIED", "HTTP 403", self.store, "read", "f", 0, 1, "")
        self.web.has_ranges = False
        self.assert_fails("NO_RANGES", "does not serve ranges", self.store, "read", "f", 2, 1, "")

    def test_redirect_is_not_followed_and_its_secrets_are_not_shown(self):
        self.web.redirects["models/my llama/f"] = "https://elsewhere.example/f?token=secret"
        error = self.assert_fails("REDIRECTED", "leads to https://elsewhere.example/f;", self.store,
                                  "head", "f")
        self.assertNotIn("secret", error.message)

    def test_server_of_an_unknown_authority_is_not_trusted(self):
        self.serve("k", b"x")
        self.assert_cannot_open("TLS_FAILED", "its certificate is not trusted",
                                f"{self.web.url}/models/my%20llama", {})

    def test_s3_over_tls_trusts_the_bundle_of_aws(self):
        server = S3Server(tls=(self.certificate, self.key))
        self.addCleanup(server.close)
        self.assert_cannot_open("TLS_FAILED", "AWS_CA_BUNDLE", "s3://bucket", server.environment)
        store = self.open("s3://bucket", {**server.environment,
                                          "AWS_CA_BUNDLE": str(self.authority)})
        file = pattern(self.directory / "file", 20 * MIB)
        store("put", "f", file)
        self.assertEqual(server.objects["f"][0], file.read_bytes())
