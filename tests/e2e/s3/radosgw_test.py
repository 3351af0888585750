"""All operations against Ceph's object gateway, checked by a client that we did not write."""

import hashlib
import pathlib
import random
import tempfile
import urllib.request

from harness import radosgw
from harness.programs import FULL
from tool import Boto, StoreTest, pattern

MIB = 1 << 20
KEYS = 1000 if FULL else 200
# What a key may have: all but control characters, and segments that are empty, "." or "..".
ALPHABET = "abcXYZ019 +%&=?#;:@$,!*'()[]{}<>|\\^`~\"._-äßçñ日本語Ωж🦙\u0301"


def random_key(random_source):
    def segment():
        while True:
            text = "".join(random_source.choices(ALPHABET, k=random_source.randint(1, 12)))
            if text not in (".", ".."):
                return text

    return "/".join(segment() for _ in range(random_source.randint(1, 4)))


class RadosgwTest(StoreTest):
    @classmethod
    def setUpClass(cls):
        cls.gateway = radosgw.Radosgw()
        cls.addClassCleanup(cls.gateway.close)
        cls.boto = Boto(cls.gateway.url, radosgw.ACCESS_KEY, radosgw.SECRET_KEY)
        cls.addClassCleanup(cls.boto.close)
        cls.boto("create_bucket", Bucket="bucket")

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="teq-radosgw-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.prefix = self.id().rpartition(".")[2]
        self.store = self.open(f"s3://bucket/{self.prefix}", self.gateway.environment)

    def by_boto(self, key):
        return self.boto("get_object", Bucket="bucket", Key=f"{self.prefix}/{key}")

    def uploads(self):
        found = self.boto("list_multipart_uploads", Bucket="bucket").get("Uploads", [])
        return [upload["Key"] for upload in found]

    def test_randomly_named_keys_are_the_same_for_another_client(self):
        source = random.Random(20240501)
        keys = set()
        while len(keys) < KEYS:
            keys.add(random_key(source))
        for number, key in enumerate(sorted(keys)):
            if number % 2:
                self.store("write", key, key)
            else:  # read what the other wrote, too
                self.boto("put_object", Bucket="bucket", Key=f"{self.prefix}/{key}", Body=key)
        listed = self.boto("list_objects_v2", Bucket="bucket", Prefix=self.prefix + "/")
        theirs = [o["Key"].removeprefix(self.prefix + "/") for o in listed["Contents"]]
        self.assertEqual(set(theirs), keys)
        ours = [o["key"] for o in self.store("list", "")]
        self.assertEqual(ours, sorted(keys, key=str.encode))
        for number, key in enumerate(sorted(keys)):
            if number % 2:
                self.assertEqual(self.by_boto(key)["text"], key)
            size = self.store("head", key)["bytes"]
            self.assertEqual(self.store("read", key, 0, size, "")["content"], key)
            self.store("rm", key)
        self.assertEqual(self.store("list", ""), [])

    def test_files_of_all_sizes_arrive_whole(self):
        for size in (0, 1, 16 * MIB, 16 * MIB + 1, 70 * MIB + 3):
            file = pattern(self.directory / "file", size)
            self.store("put", "f", file)
            self.assertEqual(self.by_boto("f")["sha256"],
                             hashlib.sha256(file.read_bytes()).hexdigest())
            self.store("get", "f", self.directory / "got")
            self.assertEqual((self.directory / "got").read_bytes(), file.read_bytes())
        self.assertEqual(self.uploads(), [])

    def test_taken_key_is_not_replaced(self):
        self.store("create", "k", "first")
        self.assert_fails("OBJECT_EXISTS", "exists already", self.store, "create", "k", "second")
        self.assertEqual(self.by_boto("k")["text"], "first")
        self.store("write", "k", "third")
        self.assertEqual(self.by_boto("k")["text"], "third")

    def test_object_that_changed_is_not_read(self):
        self.store("write", "k", "first")
        etag = self.store("head", "k")["etag"]
        self.assertEqual(self.store("read", "k", 1, 2, etag)["content"], "ir")
        self.store("write", "k", "other")
        self.assert_fails("OBJECT_CHANGED", "another object", self.store, "read", "k", 1, 2, etag)

    def test_uploads_that_were_left_are_aborted_below_the_prefix_only(self):
        def begin(key):
            self.boto("create_multipart_upload", Bucket="bucket", Key=key)

        for number in range(3):
            begin(f"{self.prefix}/a/left {number}+ä")
        begin(f"{self.prefix}/b/other")
        self.store("abort", "a/")
        self.assertEqual(self.uploads(), [f"{self.prefix}/b/other"])
        self.store("abort", "")
        self.assertEqual(self.uploads(), [])

    def test_presigned_url_reads_without_keys(self):
        self.store("write", "a b+c%/ä", "content")
        with urllib.request.urlopen(self.store("presign", "a b+c%/ä", 60)["url"]) as answer:
            self.assertEqual(answer.read(), b"content")

    def test_wrong_keys_and_missing_bucket_say_so(self):
        good = self.gateway.environment
        wrong = self.open("s3://bucket/x", {**good, "AWS_SECRET_ACCESS_KEY": "no"})
        self.assert_fails("OBJECT_ACCESS_DENIED", "AWS_SECRET_ACCESS_KEY", wrong, "head", "k")
        wrong = self.open("s3://bucket/x", {**good, "AWS_ACCESS_KEY_ID": "NOBODY"})
        self.assert_fails("OBJECT_ACCESS_DENIED", "AWS_ACCESS_KEY_ID", wrong, "write", "k", "x")
        missing = self.open("s3://nowhere", good)
        self.assert_fails("BUCKET_NOT_FOUND", "nowhere", missing, "head", "k")
        self.assert_fails("OBJECT_NOT_FOUND", "no such object", self.store, "head", "none")
