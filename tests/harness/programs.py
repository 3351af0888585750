"""Starts and stops teqd's programs on loopback, each by its process id.

TEQ_BIN names the directory of the built programs, TEQ_FIXTURES that of tests/fixtures.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

BIN = pathlib.Path(os.environ["TEQ_BIN"])
FIXTURES = pathlib.Path(os.environ["TEQ_FIXTURES"])
FULL = os.environ.get("TEQ_TEST_FULL") == "1"
SCRIPTS = FIXTURES.parent.parent / "deploy" / "local"

FINAL_STATES = {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}


def eventually(what, probe, seconds=60, interval=0.02):
    """The first true value of probe(), which is asked until then; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last: {value!r}")
        time.sleep(interval)


def free_port():
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def file_uri(path):
    return "file://" + str(path)


def error_reason(status):
    """The ErrorInfo reason of a google.rpc.Status that was printed as JSON."""
    for detail in status.get("details", []):
        if detail.get("@type", "").endswith("google.rpc.ErrorInfo"):
            return detail["reason"]
    return ""


class Program:
    """One running program, its output in a file."""

    def __init__(self, name, arguments, log, environment=None):
        self.name = name
        self.log = pathlib.Path(log)
        self._output = open(self.log, "ab")
        self._process = subprocess.Popen(
            [str(BIN / name), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=self._output,
            stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})

    @property
    def pid(self):
        return self._process.pid

    @property
    def running(self):
        return self._process.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=60):
        """Its exit code."""
        code = self._process.wait(seconds)
        self._output.close()
        return code

    def terminate(self, seconds=60):
        """SIGTERM; its exit code."""
        if self.running:
            self.send(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self):
        """SIGKILL."""
        if self.running:
            self.send(signal.SIGKILL)
        return self.wait()


class Answer:
    """What one call of a program printed, and its exit code."""

    def __init__(self, completed):
        self.code = completed.returncode
        self.out = completed.stdout
        self.err = completed.stderr

    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"exit code {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


def run(name, *arguments, seconds=120, environment=None, text_input=None, directory=None):
    """Runs a program to its end, in `directory`, where a worker without --data keeps its files."""
    return Answer(subprocess.run(
        [str(BIN / name), *map(str, arguments)], input=text_input, text=True, timeout=seconds,
        capture_output=True, env={**os.environ, **(environment or {})}, cwd=directory, check=False))


class House:
    """A directory with a server, workers, and what they need; everything ends with `close`."""

    def __init__(self, lease="5s"):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="teqd-"))
        self.data = self.root / "data"
        self.worker_data = self.root / "worker-data"
        self.grpc_port, self.http_port = free_port(), free_port()
        self.config = self.root / "server.yaml"
        self.config.write_text(f"lease_duration: {lease}\n")
        self.server = None
        self.programs = []
        self._workers = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.grpc_port}"

    def start_server(self):
        log = self.root / "server.log"
        log.unlink(missing_ok=True)
        self.server = Program("teq-server", [
            "--config", self.config, "--listen", self.address, "--http",
            f"127.0.0.1:{self.http_port}", "--data", self.data], log)
        self.programs.append(self.server)
        pattern = re.compile(r"listening grpc=\S+ http=\S+")

        def listening():
            if not self.server.running:
                raise AssertionError("teq-server ended:\n" + self.server.output())
            return pattern.search(self.server.output())

        eventually("teq-server listens", listening, 30)
        return self.server

    def start_worker(self, worker_id=None, environment=None, arguments=()):
        """A worker with an id of its own; the same id is a restart of the same worker."""
        self._workers += 1
        worker_id = worker_id or f"worker-{self._workers}"
        config = self.root / f"{worker_id}.yaml"
        config.write_text(f"id: {worker_id}\nthreads: 1\ndata: {self.worker_data}\n")
        worker = Program("teq-worker", ["--config", config, "--server", self.address, *arguments],
                         self.root / f"{worker_id}-{self._workers}.log", environment)
        self.programs.append(worker)
        return worker

    def ctl(self, *arguments, **options):
        return run("teqctl", "--server", self.address, *arguments, **options)

    def submit(self, job_file, *arguments):
        """The submitted job."""
        answer = self.ctl("submit", "-f", job_file, "-o", "json", *arguments)
        assert answer.code == 0, answer
        return answer.json()

    def job(self, name):
        answer = self.ctl("get", name, "-o", "json")
        assert answer.code == 0, answer
        return answer.json()

    def wait_for(self, name, what, probe, seconds=120):
        """The job as soon as probe(job) is true; fails at once when the job ended otherwise."""
        def look():
            job = self.job(name)
            if probe(job):
                return job
            if job["state"] in FINAL_STATES:
                raise AssertionError(f"{name} ended before {what}: {json.dumps(job)[:4000]}")
            return None

        return eventually(f"{name}: {what}", look, seconds, interval=0.05)

    def wait_for_state(self, name, state, seconds=120):
        return self.wait_for(name, state, lambda job: job["state"] == state, seconds)

    def wait_for_training(self, name, step=2, seconds=120):
        """Until the current attempt has trained `step` steps."""
        return self.wait_for(
            name, f"training step {step}",
            lambda job: job["state"] == "RUNNING" and job.get("progress", {}).get("stage") == "TRANSFORM"
            and job.get("latest_metrics", {}).get("step", 0) >= step, seconds)

    def fetch(self, path):
        """Status code and body of the HTTP side port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}",
                                        timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def event_sequences(self, name):
        """The numbers of a job's stored events, and the number of the last one that was given."""
        project, job_id = name.split("/")[1], name.split("/")[3]
        (database,) = [f for f in self.data.rglob("*") if f.is_file() and
                       f.read_bytes()[:15] == b"SQLite format 3"]
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
            key, last = store.execute(
                "SELECT key, last_sequence FROM jobs WHERE project = ? AND job_id = ?",
                (project, job_id)).fetchone()
            rows = store.execute(
                "SELECT sequence FROM job_events WHERE job_key = ? ORDER BY sequence", (key,))
            return [row[0] for row in rows], last

    def reason(self, job):
        """The stable reason of a job's error."""
        return error_reason(job.get("error", {}))

    def close(self):
        for program in reversed(self.programs):
            if program.running:
                with contextlib.suppress(ProcessLookupError):
                    program.send(signal.SIGCONT)
                program.kill()
        shutil.rmtree(self.root, ignore_errors=True)


class HouseTest(unittest.TestCase):
    """A test with a house of its own."""

    # On a busy machine a heartbeat may be seconds late; tests that let a lease expire wait for it.
    lease = "5s"

    def setUp(self):
        self.house = House(self.lease)
        self.addCleanup(self._close)

    def _close(self):
        outcome = self._outcome.result
        # What failed may be a sub-test.
        if any(getattr(test, "test_case", test) is self
               for test, _ in [*outcome.failures, *outcome.errors]):
            for log in sorted(self.house.root.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}", flush=True)
        self.house.close()

    def assert_published(self, output):
        """One true manifest lies in `output`, and nothing that it does not name. The manifest."""
        output = pathlib.Path(output)
        manifest = json.loads((output / "manifest.json").read_text())
        self.assertEqual(manifest["schema"], "teqd.manifest.v1")
        named = {entry["path"]: entry for entry in manifest["files"]}
        found = {str(f.relative_to(output)): f for f in output.rglob("*") if f.is_file()}
        self.assertEqual(set(found), {*named, "manifest.json"})
        for path, entry in named.items():
            content = found[path].read_bytes()
            self.assertEqual(entry["bytes"], len(content), path)
            self.assertEqual(entry["sha256"], hashlib.sha256(content).hexdigest(), path)
        return manifest

    def assert_nothing_published(self, output):
        """Nothing lies in `output`, not even the directory."""
        output = pathlib.Path(output)
        self.assertEqual(sorted(map(str, output.rglob("*"))) if output.exists() else [], [])

    def assert_gapless(self, name):
        """No event of the job is missing."""
        sequences, last = self.house.event_sequences(name)
        self.assertEqual(sequences, list(range(1, last + 1)))
