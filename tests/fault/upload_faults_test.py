"""Workers that are killed, stopped or cancelled while they upload to an object store, and stores that
refuse them."""

import hashlib
import json
import os
import random
import signal
import threading
import unittest

from harness import models, programs, s3_server
from harness.jobs import Workshop
from worker_faults_test import alive, children

KILLS = 50 if programs.FULL else 5
SEED = 20240607
# How long a slow machine may take to come to the moment that a test waits for.
PATIENCE = 300
# More than 16 MiB of float16, so that the file travels in parts.
VOCABULARY = 150_000


def write_wide_model(directory):
    """The tiny model with an embedding that is a large file."""
    config = {**models.TINY_CONFIG, "vocab_size": VOCABULARY, "tie_word_embeddings": True}
    tensors = models.random_llama(models.TINY_CONFIG)
    del tensors["lm_head.weight"]
    values = tensors["model.embed_tokens.weight"].values
    size = VOCABULARY * config["hidden_size"]
    repeated = (values * (size // len(values) + 1))[:size]
    tensors["model.embed_tokens.weight"] = models.Tensor(
        "F16", [VOCABULARY, config["hidden_size"]], repeated)
    return models.write_checkpoint(directory, config, tensors)


class Watcher:
    """Looks at every request of the store before it is served: whether what a reader would see is whole,
    and whether it is time for `act`, once, at the `at`th writing request."""

    action = ""

    def __init__(self, store):
        self.store = store
        self.times = 1
        self.broken = []  # what a reader should never have seen
        self.roots = {}
        self.digests = {}  # by key: the content that was looked at, and its sha256
        self.at, self.act, self.writes = None, None, 0

    def arm(self, at, act):
        self.at, self.act, self.writes = at, act, 0

    def matches(self, request):
        self.look()
        if request.method in ("PUT", "POST", "DELETE"):
            self.writes += 1
            if self.writes == self.at:
                self.at = None
                self.act()
        return False

    def look(self):
        for key, (content, _) in list(self.store.objects.items()):
            prefix, _, name = key.rpartition("/")
            if name != "manifest.json" or "/" in prefix:  # of an attempt
                continue
            if self.roots.setdefault(key, content) != content:
                self.broken.append(f"{key} has changed")
            for file in json.loads(content)["files"]:
                if self.digest(f"{prefix}/{file['path']}") != file["sha256"]:
                    self.broken.append(f"{key} lists {file['path']}, which is not there whole")

    def digest(self, key):
        """Of an object, or of nothing. What has not been written anew is not read again."""
        content = self.store.objects.get(key, (b"", ""))[0]
        known, digest = self.digests.get(key, (None, ""))
        if known is not content:
            digest = hashlib.sha256(content).hexdigest()
            self.digests[key] = content, digest
        return digest


class UploadFaultsTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.store = s3_server.S3Server()
        self.addCleanup(self.store.close)
        self.watcher = Watcher(self.store)
        self.store.faults.append(self.watcher)
        old = dict(os.environ)
        os.environ.update(self.store.environment)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(old)))
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()
        self._outputs = 0

    def worker(self, environment=None):
        return self.house.start_worker(
            environment=environment, arguments=["--data", self.house.root / "staging"])

    def submit(self, uri=None, **changes):
        """A job's name and its prefix in the bucket. Nothing is trained, so that it is soon uploaded."""
        self._outputs += 1
        output = f"output-{self._outputs}"
        job = self.workshop.job(**changes)
        job["recipe"] = {"weights": {"bits": 4, "group_size": 32}, "rounding": {"nearest": {}}}
        job["output"]["uri"] = uri or f"s3://bucket/{output}"
        return self.house.submit(self.workshop.write(job))["name"], output

    def use_wide_model(self):
        self.workshop.model = write_wide_model(self.house.root / "wide")

    def staged(self):
        return list((self.house.root / "staging" / "staging").glob("*"))

    def assert_ended_well(self, name, output):
        job = self.house.wait_for_state(name, "SUCCEEDED", PATIENCE)
        self.assertEqual(self.watcher.broken, [])
        self.assert_only_the_result_is_left(job, output)
        self.assert_gapless(name)
        return job

    def assert_only_the_result_is_left(self, job, output):
        objects = {key: content for key, (content, _) in self.store.objects.items()
                   if key.startswith(output + "/")}
        root = objects[f"{output}/manifest.json"]
        self.assertEqual(hashlib.sha256(root).hexdigest(), job["manifest_sha256"])
        manifest = json.loads(root)
        prefix = f"{manifest['attempt']}-{manifest['fence']}"
        listed = {f"{output}/{file['path']}": file["sha256"] for file in manifest["files"]}
        self.assertEqual(set(objects), {
            *listed, f"{output}/manifest.json", f"{output}/{prefix}/manifest.json",
            f"{output}/{prefix}/owner.json"})
        for key, digest in listed.items():
            self.assertEqual(hashlib.sha256(objects[key]).hexdigest(), digest, key)
        self.assertEqual(self.store.uploads, {}, "unfinished uploads")

    def writes_of_a_job(self):
        """How many writing requests a whole job makes."""
        self.watcher.arm(None, None)
        worker = self.worker()
        name, output = self.submit()
        self.assert_ended_well(name, output)
        worker.terminate()
        return self.watcher.writes

    def test_worker_killed_at_any_moment_of_an_upload_never_leaves_half_a_result(self):
        self.use_wide_model()
        writes = self.writes_of_a_job()
        self.assertGreater(self.store.count("PUT", lambda r: "partNumber" in r.query), 1)
        chance = random.Random(SEED)
        for number in range(KILLS):
            at = chance.randint(1, writes)
            with self.subTest(kill=number, at=at):
                died = threading.Event()
                worker = self.worker()

                def kill(worker=worker, died=died):
                    os.kill(worker.pid, signal.SIGKILL)
                    died.set()

                self.watcher.arm(at, kill)
                name, output = self.submit()
                programs.eventually("the worker is killed", died.is_set, PATIENCE)
                worker.wait()
                heir = self.worker()
                self.assert_ended_well(name, output)
                self.assertEqual(self.staged(), [])
                heir.terminate()

    def test_worker_paused_before_any_step_of_its_publication_changes_nothing_afterwards(self):
        for point in ("complete_success", "publish_manifest", "publish_cleanup",
                      "complete_published"):
            with self.subTest(point=point):
                sleeper = self.worker({"TEQ_STOP_AT": point})
                name, output = self.submit()
                programs.eventually("the worker is paused",
                                    lambda pid=sleeper.pid: state(pid) == "T", PATIENCE)
                heir = self.worker()
                job = self.assert_ended_well(name, output)
                sleeper.send(signal.SIGCONT)
                programs.eventually(
                    "the sleeper knows that its lease is lost",
                    lambda worker=sleeper: "the lease is lost" in worker.output(), PATIENCE)
                self.assert_only_the_result_is_left(job, output)
                self.assertEqual(self.watcher.broken, [])
                sleeper.kill()
                heir.terminate()

    def test_worker_paused_in_its_upload_removes_what_it_uploads_after_its_successor(self):
        for point in ("upload_file", "upload_manifest"):
            with self.subTest(point=point):
                sleeper = self.worker({"TEQ_STOP_AT": point})
                name, output = self.submit()

                def paused_engine(pid=sleeper.pid):
                    return next((child for child in children(pid) if state(child) == "T"), None)

                engine = programs.eventually("the engine is paused", paused_engine, PATIENCE)
                sleeper.send(signal.SIGSTOP)
                heir = self.worker()
                job = self.assert_ended_well(name, output)
                # First the engine, which goes on as if nothing had happened.
                while state(engine) == "T":
                    os.kill(engine, signal.SIGCONT)
                    programs.eventually("the engine ends or pauses again",
                                        lambda pid=engine: state(pid) in "TZ" or not alive(pid), 60)
                sleeper.send(signal.SIGCONT)
                programs.eventually(
                    "the sleeper knows that its lease is lost",
                    lambda worker=sleeper: "the lease is lost" in worker.output(), PATIENCE)
                self.assert_only_the_result_is_left(job, output)
                self.assertEqual(self.watcher.broken, [])
                sleeper.kill()
                heir.terminate()

    def hang_at_the_model(self):
        """Events: a request that sends the model hangs; it, and those like it, may go on."""
        hangs, free = threading.Event(), threading.Event()
        self.addCleanup(free.set)

        def hang(request):
            if request.method == "PUT" and request.key.endswith("model.safetensors"):
                hangs.set()
                free.wait(PATIENCE)
            return False

        self.store.faults.insert(0, s3_server.Fault("", hang))
        self.store.lock = Unlocked()  # others are served while one hangs
        return hangs, free

    def test_failed_gate_ends_a_transfer_that_hangs_and_leaves_nothing(self):
        self.use_wide_model()
        # The transfer has begun by the time that this is measured.
        self.workshop.evaluation.write_text(models.random_text(64 * 64, seed=3))
        hangs, free = self.hang_at_the_model()
        self.worker()
        evaluation = {**self.workshop.job()["evaluation"], "max_perplexity_delta": -1e9}
        name, _ = self.submit(evaluation=evaluation)
        job = self.house.wait_for_state(name, "FAILED", PATIENCE)
        self.assertEqual(self.house.reason(job), "PERPLEXITY_GATE", job["error"])
        self.assertTrue(hangs.is_set(), "the transfer waits for the evaluation")
        self.assertEqual((self.store.objects, self.store.uploads), ({}, {}))
        self.assertEqual(self.staged(), [])
        free.set()

    def test_cancelled_upload_stops_while_the_store_hangs_and_leaves_nothing(self):
        hangs, free = self.hang_at_the_model()
        self.worker()
        name, _ = self.submit()
        programs.eventually("the upload hangs", hangs.is_set, PATIENCE)
        self.assertEqual(self.house.job(name)["state"], "RUNNING")
        self.assertEqual(self.house.ctl("cancel", name).code, 0)
        # Well before the engine would be killed for not answering.
        self.house.wait_for_state(name, "CANCELLED", 8)
        free.set()
        programs.eventually("nothing is left", lambda: not self.store.uploads, 10)
        # The request that hung was whole, so the store may carry it out whenever it wakes.
        self.assertEqual([key for key in self.store.objects if "model" not in key], [])
        self.assertEqual(self.staged(), [])

    def test_wrong_credentials_fail_the_job_once_and_early(self):
        worker = self.worker({"AWS_SECRET_ACCESS_KEY": "wrong"})
        name, _ = self.submit()
        job = self.house.wait_for_state(name, "FAILED", PATIENCE)
        self.assertEqual(self.house.reason(job), "OBJECT_ACCESS_DENIED", job["error"])
        self.assertEqual(job["attempt_count"], 1)
        self.assertEqual(job["progress"]["stage"], "FETCH")
        worker.terminate()

    def test_missing_bucket_fails_the_job_once_and_is_named(self):
        self.worker()
        name, _ = self.submit(uri="s3://nobodys-bucket/x")
        job = self.house.wait_for_state(name, "FAILED", PATIENCE)
        self.assertEqual(self.house.reason(job), "BUCKET_NOT_FOUND", job["error"])
        self.assertIn("nobodys-bucket", job["error"]["message"])
        self.assertEqual(job["attempt_count"], 1)

    def test_store_that_does_not_answer_costs_an_attempt_and_not_the_job(self):
        outage = s3_server.Fault("status", lambda request: True, times=10**6, status=503,
                                 code="SlowDown")
        self.store.faults.insert(0, outage)
        self.worker()
        name, output = self.submit()
        job = self.house.wait_for(name, "the attempt ends",
                                  lambda job: job["state"] == "RETRY_WAIT", PATIENCE)
        self.assertIn("answers HTTP 503", job["status_message"])
        outage.times = 0
        self.assert_ended_well(name, output)

    def test_published_output_is_pulled_and_verified_by_teqctl(self):
        self.worker()
        name, output = self.submit()
        job = self.assert_ended_well(name, output)
        listed = self.house.ctl("artifacts", name, "-o", "json").json()
        self.assertEqual([a["name"] for a in listed], [name + "/artifacts/gptq"])
        self.assertEqual(listed[0]["artifact"]["path"], job["report"]["artifacts"][0]["path"])
        for number, words in enumerate(([], ["--via-server"])):
            directory = self.house.root / f"pulled-{number}"
            answer = self.house.ctl("pull", name, directory, "--format", "gptq", *words)
            self.assertEqual(answer.code, 0, answer)
            prefix = listed[0]["artifact"]["path"].removeprefix("s3://bucket/")
            for key, (content, _) in self.store.objects.items():
                if key.startswith(prefix + "/"):
                    file = directory / "gptq" / key.removeprefix(prefix + "/")
                    self.assertEqual(file.read_bytes(), content, key)
        manifest = self.house.ctl("manifest", name)
        self.assertEqual(hashlib.sha256(manifest.out.encode()).hexdigest(), job["manifest_sha256"])
        for words in ([], ["--via-server"]):
            self.assertEqual(self.house.ctl("verify", name, *words).code, 0)
        key = next(key for key in self.store.objects if key.endswith("model.safetensors"))
        content, etag = self.store.objects[key]
        self.store.objects[key] = (s3_server.flipped(content), etag)
        for words in ([], ["--via-server"]):
            answer = self.house.ctl("verify", name, *words, "-o", "json")
            self.assertEqual(answer.code, 1, answer)
            self.assertEqual([p["path"] for p in answer.json()["problems"]],
                             [key.removeprefix(output + "/")])
        answer = self.house.ctl("pull", name, self.house.root / "damaged")
        self.assertEqual(answer.code, 1, answer)
        self.assertFalse((self.house.root / "damaged").exists())


class Unlocked:
    """A lock that is none."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def state(pid):
    """A process's state, such as "T" for a paused one; "Z" where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


if __name__ == "__main__":
    unittest.main()
