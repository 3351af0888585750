"""Models and texts from web servers and a hub: the same results as from files, and every refusal."""

import hashlib
import json
import math
import pathlib
import re
import shutil
import signal
import struct
import tempfile
import threading
import time
import unittest

from harness import certificates, models, programs, s3_server, web
from harness.jobs import Workshop

TOKEN = "hf_test_token"
CHUNK = 8 << 20  # what the cache fetches at once


def file_bytes(directory):
    return {str(f.relative_to(directory)): f.read_bytes()
            for f in pathlib.Path(directory).rglob("*") if f.is_file()}


class RemoteInputTest(unittest.TestCase):
    """Jobs that are run by `teq-worker run`, each with a cache of its own unless it says otherwise."""

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="teqd-input-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.workshop = Workshop(self.root / "shop")
        self.data = self.root / "data"
        authority, *certificate = certificates.make(self.root)
        self.web = self._start(web.FileServer(certificate))
        self.store = self._start(web.FileServer())
        self.hub = self._start(web.Hub(self.store, [TOKEN]))
        self.environment = {"SSL_CERT_FILE": str(authority), "HF_ENDPOINT": self.hub.origin,
                            "HF_TOKEN": "", "HF_TOKEN_PATH": "", "HOME": str(self.root)}
        self.web.add_directory(self.workshop.model, "/models/tiny")
        for file in (self.workshop.calibration, self.workshop.evaluation):
            self.web.files[f"/texts/{file.name}"] = file.read_bytes()

    def _start(self, server):
        self.addCleanup(server.close)
        return server

    def job(self, model=None, texts=False):
        """A job of the workshop, its model or its texts elsewhere."""
        job = self.workshop.job(steps=2)
        if model:
            job["model"]["uri"] = model
        if texts:
            texts = f"{self.web.origin}/texts"
            job["calibration"]["uri"] = f"{texts}/{self.workshop.calibration.name}"
            job["evaluation"]["uris"] = [f"{texts}/{self.workshop.evaluation.name}"]
        return job

    def command(self, job):
        return ["--threads", "1", "--data", self.data, "--cache-gib", "1", "run", "--job",
                self.workshop.write(job)]

    def run_job(self, job, environment=None):
        return programs.run("teq-worker", *self.command(job),
                            environment={**self.environment, **(environment or {})})

    def published(self, job):
        """What a job publishes: its checkpoint's files but for the card, which names the model's uri, and
        its report."""
        answer = self.run_job(job)
        self.assertEqual(answer.code, 0, answer)
        output = pathlib.Path(job["output"]["uri"].removeprefix("file://"))
        files = file_bytes(output / "gptq")
        del files["README.md"]
        return files, json.loads((output / "report.json").read_text())

    def refused(self, reason, *words, job, environment=None):
        """The message of a job that fails, and that leaves nothing where it would have published."""
        answer = self.run_job(job, environment)
        self.assertEqual(answer.code, 1, answer)
        message = answer.err.strip().splitlines()[-1]
        self.assertTrue(message.startswith(f"teq-worker: {reason}: "), answer)
        for word in words:
            self.assertIn(word, message)
        # A URI stands for what it names, not a link of the worker's.
        self.assertNotIn("/views/", message)
        output = pathlib.Path(job["output"]["uri"].removeprefix("file://"))
        self.assertEqual(list(output.rglob("manifest.json")) if output.exists() else [], [])
        return message

    def downloads(self, server):
        return [path for method, path, _ in server.requests if method == "GET"]

    # The same results.

    def test_web_server_gives_the_bytes_that_files_give_and_the_second_job_fetches_nothing(self):
        expected, local = self.published(self.job())
        uri = f"{self.web.origin}/models/tiny"
        found, remote = self.published(self.job(uri, texts=True))
        self.assertEqual(found, expected)
        self.assertEqual(remote["inputs"]["model_uri"], uri)
        for digest in ("model_sha256", "calibration_sha256", "evaluation_sha256"):
            self.assertEqual(remote["inputs"][digest], local["inputs"][digest])
        fetched = self.web.bytes_served
        again, report = self.published(self.job(uri, texts=True))
        self.assertEqual((again, report["inputs"]["model_sha256"]),
                         (expected, local["inputs"]["model_sha256"]))
        self.assertEqual(self.web.bytes_served, fetched)
        self.assertEqual(list((self.data / "cache" / "views").iterdir()), [])

    def test_bucket_gives_the_bytes_that_files_give(self):
        expected, local = self.published(self.job())
        bucket = self._start(s3_server.S3Server())
        self.environment.update(bucket.environment)
        for name, data in self.web.files.items():
            bucket.objects[name.lstrip("/")] = (data, hashlib.md5(data).hexdigest())
        # One connection breaks in the middle.
        bucket.faults.append(s3_server.Fault(
            "half", lambda request: request.method == "GET" and
            request.key.endswith("model.safetensors")))
        job = self.job("s3://bucket/models/tiny")
        job["calibration"]["uri"] = f"s3://bucket/texts/{self.workshop.calibration.name}"
        job["evaluation"]["uris"] = [f"s3://bucket/texts/{self.workshop.evaluation.name}"]
        found, remote = self.published(job)
        self.assertEqual(found, expected)
        self.assertEqual(remote["inputs"]["model_sha256"], local["inputs"]["model_sha256"])
        self.refused("BUCKET_NOT_FOUND", "nowhere", job=self.job("s3://nowhere/models/tiny"))
        self.refused("MODEL_NOT_FOUND", "s3://bucket/models/none/config.json",
                     job=self.job("s3://bucket/models/none"))
        self.refused("OBJECT_ACCESS_DENIED", job=self.job("s3://bucket/models/tiny"),
                     environment={"AWS_SECRET_ACCESS_KEY": "wrong"})

    def test_hub_gives_the_bytes_that_files_give_from_one_commit(self):
        expected, local = self.published(self.job())
        commit = self.hub.commit("owner/tiny", file_bytes(self.workshop.model))
        changed = {**file_bytes(self.workshop.model), "config.json": b"{}"}
        # The branch moves on as soon as the first file is asked for.
        answer = self.hub.answer

        def move_on(request):
            answer(request)
            if "/resolve/" in request.path:
                self.hub.commit("owner/tiny", changed)

        self.hub.answer = move_on
        found, report = self.published(self.job("hf://owner/tiny"))
        self.assertNotEqual(self.hub.models["owner/tiny"]["main"], commit)
        self.assertEqual(found, expected)
        self.assertEqual(report["inputs"]["model_uri"], f"hf://owner/tiny@{commit}")
        self.assertEqual(report["inputs"]["model_sha256"], local["inputs"]["model_sha256"])

    def test_token_of_a_file_opens_a_gated_model_and_stays_with_the_hub(self):
        self.hub.commit("owner/tiny", file_bytes(self.workshop.model), revision="v1.0")
        self.hub.gated["owner/tiny"] = {TOKEN}
        token = self.root / "token"
        token.write_text(TOKEN + "\n")
        self.environment["HF_TOKEN_PATH"] = str(token)
        self.published(self.job("hf://owner/tiny@v1.0"))
        self.assertIn("Authorization", self.hub.requests[0][2])
        self.assertTrue(self.store.requests)
        for _, path, headers in self.store.requests:
            self.assertNotIn("Authorization", headers, path)

    def test_only_what_a_loader_needs_is_fetched(self):
        needed = {**file_bytes(self.workshop.model), "LICENSE": b"as is", "README.md": b"read me"}
        files = {**needed, "pytorch_model.bin": b"pickle", "TRAINING.md": b"x",
                 "original/model.safetensors": b"x" * 1000,
                 "consolidated.safetensors": b"x" * 1000}
        self.hub.commit("owner/tiny", files)
        published, _ = self.published(self.job("hf://owner/tiny"))
        self.assertEqual(published["LICENSE"], b"as is")
        names = {path.rsplit("/resolve/", 1)[1].split("/", 1)[1]
                 for path in self.downloads(self.hub) if "/resolve/" in path}
        self.assertEqual(names, set(needed))

    def test_two_workers_on_one_disk_fetch_a_model_once(self):
        uri = f"{self.web.origin}/models/tiny"
        jobs = [self.job(uri), self.job(uri)]
        workers = [programs.Program("teq-worker", self.command(job), self.root / f"{i}.log",
                                    self.environment) for i, job in enumerate(jobs)]
        for worker in workers:
            self.assertEqual(worker.wait(120), 0, worker.output())
        once = sum(len(data) for data in file_bytes(self.workshop.model).values())
        self.assertEqual(self.web.bytes_served, once)

    # Faults.

    def test_connections_that_end_half_way_are_taken_up_again(self):
        expected, _ = self.published(self.job())
        cuts = {}

        def cut(path, first, body):
            cuts[path] = cuts.get(path, 0) + 1
            return body[:len(body) // 2] if cuts[path] <= 2 else body

        self.web.on_range = cut
        found, _ = self.published(self.job(f"{self.web.origin}/models/tiny"))
        self.assertEqual(found, expected)
        self.assertGreaterEqual(cuts["/models/tiny/model.safetensors"], 3)

    def test_object_that_changes_meanwhile_is_an_error(self):
        weights = "/models/tiny/model.safetensors"
        answer = self.web.answer

        def change(request):
            if request.command == "GET" and request.path == weights:
                self.web.files[weights] = self.web.files[weights][:-1] + b"?"
            answer(request)

        self.web.answer = change
        self.refused("OBJECT_CHANGED", "model.safetensors",
                     job=self.job(f"{self.web.origin}/models/tiny"))

    def test_wrong_bytes_of_a_large_file_are_found_and_not_kept(self):
        self.hub.commit("owner/tiny", file_bytes(self.workshop.model))
        # One weight is another: nothing but the file's sha256 tells.
        self.store.on_range = lambda path, first, body: body[:-1] + b"?"
        self.refused("OBJECT_CORRUPT", "model.safetensors", "sha256", job=self.job("hf://owner/tiny"))
        self.store.on_range = None
        expected, _ = self.published(self.job())
        found, _ = self.published(self.job("hf://owner/tiny"))
        self.assertEqual(found, expected)

    def test_killed_worker_leaves_a_cache_that_the_next_one_completes(self):
        expected, _ = self.published(self.job())
        reached, go_on = threading.Event(), threading.Event()

        def stall(path, first, body):
            if path.endswith("model.safetensors"):
                reached.set()
                go_on.wait(60)
            return body

        self.web.on_range = stall
        job = self.job(f"{self.web.origin}/models/tiny")
        worker = programs.Program("teq-worker", self.command(job), self.root / "killed.log",
                                  self.environment)
        self.assertTrue(reached.wait(60))
        worker.kill()
        self.web.on_range = None
        go_on.set()
        found, _ = self.published(self.job(f"{self.web.origin}/models/tiny"))
        self.assertEqual(found, expected)

    def test_cancel_ends_a_fetch_that_stands_still(self):
        reached, go_on = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)

        def stall(path, first, body):
            if path.endswith("model.safetensors"):
                reached.set()
                go_on.wait(60)
            return body

        self.web.on_range = stall
        job = self.job(f"{self.web.origin}/models/tiny")
        worker = programs.Program("teq-worker", self.command(job), self.root / "cancelled.log",
                                  self.environment)
        self.assertTrue(reached.wait(60))
        asked = time.monotonic()
        worker.send(signal.SIGTERM)
        self.assertEqual(worker.wait(60), 130, worker.output())
        # Far less than the ten seconds after which the engine would be killed.
        self.assertLess(time.monotonic() - asked, 8)
        self.assertIn("CANCELLED", worker.output())

    # Bad input: what is wrong is said before the weights travel.

    def grow_vocabulary(self, tokens):
        """The served model gets an embedding and a head of that many tokens, and zeros for weights."""
        config = "/models/tiny/config.json"
        self.web.files[config] = json.dumps({**models.TINY_CONFIG, "vocab_size": tokens}).encode()
        content = self.web.files["/models/tiny/model.safetensors"]
        (length,) = struct.unpack_from("<Q", content)
        header, end = json.loads(content[8:8 + length]), 0
        for name, entry in header.items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                entry["shape"][0] = tokens
            begin, end = end, end + 2 * math.prod(entry["shape"])
            entry["data_offsets"] = [begin, end]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.web.files["/models/tiny/model.safetensors"] = (
            struct.pack("<Q", len(text)) + text + bytes(end))

    def assert_no_weights_fetched(self):
        self.assertFalse([p for p in self.downloads(self.web) if p.endswith(".safetensors")])

    def test_unknown_architecture_costs_no_weights(self):
        self.web.files["/models/tiny/config.json"] = b'{"model_type": "unheard_of"}'
        uri = f"{self.web.origin}/models/tiny"
        self.refused("UNKNOWN_ARCHITECTURE", f"{uri}/config.json", "unheard_of", job=self.job(uri))
        self.assert_no_weights_fetched()

    def test_missing_model_names_its_uri(self):
        uri = f"{self.web.origin}/models/none"
        self.refused("MODEL_NOT_FOUND", f"{uri}/config.json", job=self.job(uri))

    def test_pickled_weights_are_refused_unfetched(self):
        del self.web.files["/models/tiny/model.safetensors"]
        self.web.files["/models/tiny/pytorch_model.bin"] = b"pickle"
        uri = f"{self.web.origin}/models/tiny"
        self.refused("INVALID_CHECKPOINT", f"{uri}/pytorch_model.bin", "safe_serialization",
                     job=self.job(uri))
        self.assertNotIn("/models/tiny/pytorch_model.bin", self.downloads(self.web))

    def test_missing_text_is_told_when_of_the_weights_only_their_header_has_come(self):
        self.grow_vocabulary(100_000)
        weights, sent = "/models/tiny/model.safetensors", []
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def stall(path, first, body):
            if path == weights:
                if first > 0:
                    go_on.wait(60)
                sent.append(len(body))
            return body

        self.web.on_range = stall
        job = self.job(f"{self.web.origin}/models/tiny")
        job["calibration"]["uri"] = f"{self.web.origin}/texts/none.txt"
        self.refused("TEXT_NOT_FOUND", job["calibration"]["uri"], job=job)
        # The chunk that the header lies in; there are four.
        self.assertGreater(len(self.web.files[weights]), 3 * CHUNK)
        self.assertEqual(sent, [CHUNK])

    def test_header_that_lies_is_refused_by_its_uri(self):
        weights = self.web.files["/models/tiny/model.safetensors"]
        self.web.files["/models/tiny/model.safetensors"] = weights[:-100]
        uri = f"{self.web.origin}/models/tiny"
        self.refused("INVALID_CHECKPOINT", f"{uri}/model.safetensors", job=self.job(uri))

    def test_model_larger_than_the_cache_says_how_large_it_has_to_be(self):
        config = dict(models.TINY_CONFIG)
        self.hub.commit("owner/huge", {"config.json": json.dumps(config).encode(),
                                       "model.safetensors": b"small"})
        send = self.hub.send

        def lie(request, status, body=b"", **headers):
            send(request, status, re.sub(rb'"size": 5\b', b'"size": 3000000000', body), **headers)

        self.hub.send = lie
        self.refused("CACHE_FULL", "hf://owner/huge", "2.79 GiB", "1.00 GiB", "--cache-gib to 3",
                     job=self.job("hf://owner/huge"))

    def test_server_that_is_not_trusted_is_refused(self):
        self.refused("TLS_FAILED", "SSL_CERT_FILE", job=self.job(f"{self.web.origin}/models/tiny"),
                     environment={"SSL_CERT_FILE": ""})

    def test_hub_refusals_each_have_their_reason(self):
        self.hub.commit("owner/tiny", file_bytes(self.workshop.model))
        self.hub.commit("owner/gated", file_bytes(self.workshop.model))
        self.hub.gated["owner/gated"] = set()
        for uri, token, reason, words in (
                ("hf://owner/none", TOKEN, "MODEL_NOT_FOUND", ["hf://owner/none"]),
                ("hf://owner/none", "", "OBJECT_ACCESS_DENIED", ["put a token"]),
                ("hf://owner/tiny@v9", TOKEN, "REVISION_NOT_FOUND", ["v9"]),
                ("hf://owner/gated", TOKEN, "MODEL_GATED", ["licence", "HF_TOKEN"]),
                ("hf://owner/tiny", "hf_wrong", "HUB_TOKEN_REFUSED", ["HF_TOKEN"])):
            with self.subTest(uri=uri, token=token):
                message = self.refused(reason, *words, job=self.job(uri),
                                       environment={"HF_TOKEN": token})
                if token:
                    self.assertNotIn(token, message)

    def test_named_token_file_that_is_missing_is_an_error(self):
        self.refused("NO_CREDENTIALS", "HF_TOKEN_PATH", "/no/such/token",
                     job=self.job("hf://owner/tiny"),
                     environment={"HF_TOKEN_PATH": "/no/such/token"})


if __name__ == "__main__":
    unittest.main()
