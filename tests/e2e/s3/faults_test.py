"""S3 and its misfortunes, against a server that takes nothing but correct requests."""

import datetime
import pathlib
import tempfile
import urllib.error
import urllib.request

from harness.s3_server import Fault, S3Server
from tool import StoreTest, pattern

MIB = 1 << 20


class FaultsTest(StoreTest):
    def setUp(self):
        self.server = S3Server()
        self.addCleanup(self.server.close)
        directory = tempfile.TemporaryDirectory(prefix="teq-faults-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.store = self.open("s3://bucket/pre", self.server.environment)

    def content(self, key):
        return self.server.objects["pre/" + key][0]

    def assert_downloads(self, key, content):
        target = self.directory / "got"
        self.store("get", key, target)
        self.assertEqual(target.read_bytes(), content)

    def assert_faults_happened(self):
        for fault in self.server.faults:
            self.assertEqual(fault.times, 0, fault.action)

    def test_every_operation_is_signed_as_published(self):
        for key in ("plain", "a b+c%2F/ä~*'()!", "=&?#;:@$,", "日本/語"):
            self.store("write", key, key)
            self.assertEqual(self.content(key), key.encode())
            self.assertEqual(self.store("head", key)["bytes"], len(key.encode()))
            self.assertEqual(self.store("read", key, 0, len(key.encode()), "")["content"], key)
            self.assert_downloads(key, key.encode())
            with urllib.request.urlopen(self.store("presign", key, 60)["url"]) as answer:
                self.assertEqual(answer.read(), key.encode())
            self.assertEqual([o["key"] for o in self.store("list", key)], [key])
            self.store("rm", key)
            self.assertEqual(self.store("list", ""), [])

    def test_presigned_url_ends_with_its_time(self):
        self.store("write", "k", "x")
        url = self.store("presign", "k", 60)["url"]
        self.server.clock = datetime.timedelta(seconds=90)
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url)
        refused.exception.close()
        self.assertEqual(refused.exception.code, 403)

    def test_lists_go_over_many_pages(self):
        keys = sorted((f"d/{i:02} +%" for i in range(30)), key=str.encode)
        for key in keys:
            self.store("write", key, key)
        self.store("write", "other", "x")
        self.assertEqual([o["key"] for o in self.store("list", "d/")], keys)

    def test_files_travel_in_parts_and_are_whole(self):
        for size in (0, 1, 16 * MIB, 16 * MIB + 1, 50 * MIB):
            file = pattern(self.directory / "file", size)
            answer = self.store("put", "f", file)
            self.assertEqual(self.content("f"), file.read_bytes())
            self.assertEqual(answer["progress"]["last"], size)
            self.assertTrue(answer["progress"]["monotonic"])
            self.assert_downloads("f", file.read_bytes())
        self.assertEqual(self.server.uploads, {})
        self.assertEqual(self.server.count("PUT", lambda r: "partNumber" in r.query), 2 + 4)

    def test_server_without_checksums_is_served_without(self):
        self.server.checksums = False
        file = pattern(self.directory / "file", 20 * MIB)
        self.store("put", "f", file)
        self.assert_downloads("f", file.read_bytes())

    def test_passing_errors_are_tried_again(self):
        kinds = [Fault("status", status=500), Fault("status", status=502, code="BadGateway"),
                 Fault("status", status=503, code="SlowDown", headers={"Retry-After": "1"}),
                 Fault("status", status=429, code="TooManyRequests"),
                 Fault("status", status=400, code="RequestTimeout"), Fault("reset"),
                 Fault("damage", lambda r: r.method == "PUT")]
        for fault in kinds:
            self.server.faults = [fault]
            self.store("write", "k", "content")
            self.assertEqual((self.content("k"), fault.times), (b"content", 0), fault.code)

    def test_store_that_stays_away_is_an_error_after_some_tries(self):
        self.server.faults = [Fault("status", status=503, code="SlowDown", times=100)]
        before = len(self.server.requests)
        self.assert_fails("OBJECT_STORE_UNAVAILABLE", "HTTP 503 SlowDown", self.store, "list", "")
        self.assertIn(len(self.server.requests) - before, range(3, 20))

    def test_parts_of_an_upload_survive_every_fault(self):
        file = pattern(self.directory / "file", 40 * MIB)
        is_part = lambda r: "partNumber" in r.query
        for action in ("status", "reset", "lost", "damage"):
            self.server.faults = [Fault(action, is_part, times=3)]
            self.store("put", action, file)
            self.assertEqual(self.content(action), file.read_bytes(), action)
            self.assert_faults_happened()
        self.assertEqual(self.server.uploads, {})

    def test_completion_that_fails_in_a_200_is_tried_again(self):
        file = pattern(self.directory / "file", 20 * MIB)
        is_completion = lambda r: r.method == "POST" and "uploadId" in r.query
        self.server.faults = [Fault("error200", is_completion, times=2)]
        self.store("put", "f", file)
        self.assertEqual(self.content("f"), file.read_bytes())
        self.assert_faults_happened()

    def test_completion_whose_answer_is_lost_or_cut_is_found_to_have_happened(self):
        file = pattern(self.directory / "file", 20 * MIB)
        is_completion = lambda r: r.method == "POST" and "uploadId" in r.query
        for action in ("lost", "half"):
            self.server.faults = [Fault(action, is_completion)]
            self.store("put", action, file)
            self.assertEqual(self.content(action), file.read_bytes())
            self.assert_faults_happened()

    def test_upload_that_cannot_be_completed_is_aborted(self):
        file = pattern(self.directory / "file", 20 * MIB)
        self.server.faults = [
            Fault("status", lambda r: "partNumber" in r.query, 100, 403, "AccessDenied")]
        self.assert_fails("OBJECT_ACCESS_DENIED", "may not do this", self.store, "put", "f", file)
        self.assertEqual((self.server.uploads, self.server.objects), ({}, {}))

    def test_upload_that_is_stopped_leaves_nothing(self):
        file = pattern(self.directory / "file", 80 * MIB)
        self.assert_fails("CANCELLED", "stopped", self.store, "stop", "f", file)
        self.assertEqual((self.server.uploads, self.server.objects), ({}, {}))

    def test_bytes_of_another_sum_become_no_object(self):
        file = pattern(self.directory / "file", 20 * MIB)
        self.assert_fails("OBJECT_CORRUPT", "as they should", self.store, "put", "f", file, "0" * 64)
        self.assertEqual((self.server.uploads, self.server.objects), ({}, {}))

    def test_upload_that_keeps_arriving_damaged_is_corrupt(self):
        self.server.faults = [Fault("damage", lambda r: r.method == "PUT", times=100)]
        self.assert_fails("OBJECT_CORRUPT", "arrived at the store as others", self.store, "write",
                          "k", "content")
        self.assertEqual(self.server.objects, {})

    def test_downloads_survive_broken_and_slow_answers(self):
        file = pattern(self.directory / "file", 40 * MIB)
        self.store("put", "f", file)
        is_get = lambda r: r.method == "GET"
        for action in ("status", "reset", "half", "slow"):
            self.server.faults = [Fault(action, is_get, times=3)]
            self.assert_downloads("f", file.read_bytes())
            self.assert_faults_happened()

    def test_damaged_download_is_fetched_again_where_the_store_has_a_sum(self):
        self.store("write", "k", "content")
        self.server.faults = [Fault("flip", lambda r: r.method == "GET")]
        self.assert_downloads("k", b"content")
        self.assert_faults_happened()
        self.server.faults = [Fault("flip", lambda r: r.method == "GET", times=100)]
        self.assert_fails("OBJECT_CORRUPT", "another sha256", self.store, "get", "k",
                          self.directory / "bad")
        self.assertFalse((self.directory / "bad").exists())

    def test_object_that_changes_in_between_is_noticed(self):
        self.store("write", "k", "content")
        etag = self.store("head", "k")["etag"]
        self.store("write", "k", "changed")
        self.assert_fails("OBJECT_CHANGED", "another object by now", self.store, "read", "k", 0, 3,
                          etag)
        self.assert_fails("RANGE_BEYOND_END", "fewer bytes", self.store, "read", "k", 5, 3, "")
        self.assert_fails("RANGE_BEYOND_END", "fewer bytes", self.store, "read", "k", 9, 3, "")

    def test_taken_key_is_not_replaced_and_a_lost_answer_is_no_conflict(self):
        self.store("create", "k", "ours")
        self.assert_fails("OBJECT_EXISTS", "is not replaced", self.store, "create", "k", "theirs")
        self.assertEqual(self.content("k"), b"ours")
        self.server.faults = [Fault("lost", lambda r: r.method == "PUT")]
        self.store("create", "second", "ours")
        self.assertEqual(self.content("second"), b"ours")
        self.assert_faults_happened()

    def test_uploads_that_were_left_are_aborted_by_prefix(self):
        for number in range(5):
            self.server.uploads[f"u{number}"] = (f"pre/a/left {number}+", {})
        self.server.uploads["other"] = ("pre/b/left", {})
        self.server.uploads["elsewhere"] = ("elsewhere", {})
        self.store("abort", "a/")
        self.assertEqual(sorted(self.server.uploads), ["elsewhere", "other"])

    def test_wrong_keys_missing_bucket_and_skewed_clock_each_say_so(self):
        good = self.server.environment
        wrong_secret = self.open("s3://bucket", {**good, "AWS_SECRET_ACCESS_KEY": "no"})
        error = self.assert_fails("OBJECT_ACCESS_DENIED", "check AWS_SECRET_ACCESS_KEY",
                                  wrong_secret, "head", "k")
        self.assertNotIn("Signature=", error.message)
        wrong_key = self.open("s3://bucket", {**good, "AWS_ACCESS_KEY_ID": "NOBODY"})
        self.assert_fails("OBJECT_ACCESS_DENIED", "check AWS_ACCESS_KEY_ID", wrong_key, "list", "")
        wrong_region = self.open("s3://bucket", {**good, "AWS_REGION": "us-east-1"})
        self.assert_fails("WRONG_REGION", "set AWS_REGION", wrong_region, "head", "k")
        no_bucket = self.open("s3://nowhere", good)
        for command in (("head", "k"), ("list", ""), ("write", "k", "x"), ("abort", "")):
            self.assert_fails("BUCKET_NOT_FOUND", 'no bucket "nowhere"', no_bucket, *command)
        self.assert_fails("OBJECT_NOT_FOUND", "s3://bucket/pre/k: there is no such object",
                          self.store, "head", "k")
        self.server.clock = datetime.timedelta(hours=1)
        self.assert_fails("OBJECT_ACCESS_DENIED", "differ by 60 minutes", self.store, "head", "k")
        self.assert_fails("OBJECT_ACCESS_DENIED", "set the clock", self.store, "write", "k", "x")

    def test_store_without_keys_or_with_a_bad_endpoint_is_not_opened(self):
        self.assert_cannot_open("NO_CREDENTIALS", "AWS_WEB_IDENTITY_TOKEN_FILE", "s3://bucket",
                                {"AWS_ENDPOINT_URL_S3": self.server.url})
        self.assert_cannot_open("INVALID_ENDPOINT", "TEQ_S3_ALLOW_HTTP=1", "s3://bucket",
                                {**self.server.environment, "AWS_ENDPOINT_URL_S3": "http://h:1"})

    def test_bucket_may_stand_in_the_host(self):
        # The path is then the key alone, whose first segment this server takes for a bucket.
        self.server.buckets["pre"] = {}
        endpoint = f"localhost:{self.server.port}"
        store = self.open("s3://my-bucket/pre", {
            **self.server.environment, "TEQ_S3_ADDRESSING": "virtual",
            "AWS_ENDPOINT_URL_S3": f"http://{endpoint}"})
        store("write", "k", "x")
        self.assertEqual(self.server.buckets["pre"]["k"][0], b"x")
        self.assertEqual(self.server.requests[-1].headers["host"], f"my-bucket.{endpoint}")
