"""The Dockerfile is well formed, and its images for machines without a device are built and run.

What its stage `build` makes in a fresh Debian is made here from the programs of this build: compiling them again takes
an hour and the network. The targets for CUDA and Gaudi are only looked at.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import tools
from harness import programs

DOCKERFILE = tools.ROOT / "Dockerfile"
LARGEST = {"server": 120e6, "worker-cpu": 900e6}  # bytes

VALIDATE = """
const { validate } = require("dockerfile-utils");
const text = require("fs").readFileSync(0, "utf8");
process.stdout.write(JSON.stringify(validate(text)));
"""


class DockerfileTest(unittest.TestCase):
    def test_validator_finds_nothing(self):
        for text, clean in ((DOCKERFILE.read_text(), True), ("FROM a\nRUNN b\n", False)):
            ran = tools.call(["node", "-e", VALIDATE], text)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertEqual(ran.stdout == "[]", clean, ran.stdout)

    def test_every_target_runs_as_a_user_without_rights(self):
        text = DOCKERFILE.read_text()
        stages = re.split(r"(?m)^FROM ", text)[1:]
        targets = {re.match(r"\S+ AS (\S+)", stage)[1]: stage for stage in stages}
        self.assertEqual(set(targets) - {"build"}, {"server", "worker-cpu", "worker-cuda", "worker-gaudi"})
        for name, stage in targets.items():
            if name != "build":
                with self.subTest(target=name):
                    self.assertEqual(re.findall(r"(?m)^USER (.*)", stage), ["65532:65532"])
                    self.assertRegex(stage, r"(?m)^ENTRYPOINT \[")
        for target in LARGEST:
            self.assertTrue(targets[target].startswith("scratch "), target)

    def test_files_that_it_copies_exist(self):
        for line in re.findall(r"(?m)^COPY (?!--from)(.*)", DOCKERFILE.read_text()):
            for source in line.split()[:-1]:
                self.assertTrue((tools.ROOT / source).exists(), source)


class Builder:
    """buildah with a storage of its own. It needs no daemon, no registry and no right to make namespaces, but root."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        self.buildah = [*as_root, "buildah", "--storage-driver", "vfs", "--root", str(self.root / "storage"),
                        "--runroot", str(self.root / "run")]

    def call(self, *arguments):
        ran = subprocess.run([*self.buildah, *map(str, arguments)], text=True, capture_output=True, timeout=300,
                             check=False)
        assert ran.returncode == 0, f"buildah {arguments}: {ran.stdout}{ran.stderr}"
        return ran.stdout.strip()

    def build(self, target, built):
        """The Dockerfile's target with the directory `built` in the place of the stage `build`."""
        self.call("bud", "--pull-never", "--build-context", f"build={built}", "--target", target, "--tag", target,
                  "--file", DOCKERFILE, tools.ROOT / "deploy" / "docker")

    def configuration(self, target):
        return json.loads(self.call("inspect", "--type", "image", target))["OCIv1"]["config"]

    def close(self):
        self.call("rm", "--all")
        self.call("rmi", "--all", "--force")


def strip_into(directory, *names):
    """The built programs, as the Dockerfile strips them."""
    directory.mkdir()
    for name in names:
        subprocess.run(["strip", "-o", directory / name, programs.BIN / name], check=True, timeout=60)
    return [directory / name for name in names]


def size_of(root):
    return sum(f.lstat().st_size for f in pathlib.Path(root).rglob("*") if f.is_file() and not f.is_symlink())


def processes_below(pid):
    """The ids of a process's descendants."""
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from processes_below(child)


class ImagesTest(unittest.TestCase):
    """server and worker-cpu, built by buildah from programs that were built outside, run the quick start's job."""

    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        built = cls.root / "built"
        closure = tools.ROOT / "deploy" / "docker" / "closure.sh"
        for place, names in (("server", ("teq-server", "teqctl")), ("worker", ("teq-worker", "teq-sentencepiece"))):
            stripped = strip_into(cls.root / f"{place}-programs", *names)
            subprocess.run([closure, built / place, *stripped], check=True, timeout=120)
        cls.builder = Builder(cls.root)
        cls.addClassCleanup(cls.builder.close)
        for target in LARGEST:
            cls.builder.build(target, built)
        shutil.rmtree(built)
        cls.containers = {target: cls.builder.call("from", "--pull-never", target) for target in LARGEST}

    def setUp(self):
        self.shop = self.root / self._testMethodName
        self.shop.mkdir()

    def command(self, target, program, *arguments):
        """A call of a program of the image, with the test's directory and the fixtures mounted."""
        return [*self.builder.buildah, "run", "--isolation", "chroot", "--volume", f"{self.shop}:/shop", "--volume",
                f"{programs.FIXTURES}:/fixtures:ro", self.containers[target], "--", program, *arguments]

    def test_images_are_small(self):
        for target, largest in LARGEST.items():
            with self.subTest(target=target):
                size = size_of(self.builder.call("mount", self.containers[target]))
                print(f"{target}: {size / 1e6:.0f} MB", flush=True)
                self.assertLess(size, largest)

    def test_images_start_their_program_as_a_user_without_rights(self):
        for target, program in (("server", "teq-server"), ("worker-cpu", "teq-worker")):
            configuration = self.builder.configuration(target)
            self.assertEqual(configuration["User"], "65532:65532")
            self.assertEqual(configuration["Entrypoint"], [f"/usr/local/bin/{program}"])
            self.assertEqual(configuration["WorkingDir"], "/var/lib/teqd")

    def quick_start_job(self):
        """The job file of quickstart.sh; in the reduced suite with fewer steps, and less to read."""
        script = (programs.SCRIPTS / "quickstart.sh").read_text()
        job = re.search(r'(?ms)job\.yaml" <<YAML\n(.*?)^YAML$', script)[1]
        for place, here in (("$root/tests", ""), ("$data", "/shop"), ("$run", "/shop")):
            self.assertIn(place, job)
            job = job.replace(place, here)
        if not programs.FULL:
            for much, little in (("steps: 40, end_to_end_steps: 60,", "steps: 1, end_to_end_steps: 1,"),
                                 ("samples: 96", "samples: 8")):
                self.assertIn(much, job)
                job = job.replace(much, little)
            text = self.shop / "text" / "kjv_eval.txt"
            text.write_text("".join(text.read_text().splitlines(keepends=True)[:60]))
        (self.shop / "job.yaml").write_text(job)

    def start(self, target, *arguments):
        log = open(self.shop / f"{target}.log", "wb")
        self.addCleanup(log.close)
        process = subprocess.Popen(self.command(target, *arguments), stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT)
        self.addCleanup(self.stop, process)
        return process

    def stop(self, process):
        """SIGTERM to what buildah started; its exit code."""
        if process.poll() is None:
            for pid in list(processes_below(process.pid)):
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("teq-"):
                    os.kill(pid, signal.SIGTERM)
        return process.wait(60)

    def test_quick_start_job_runs_in_them(self):
        subprocess.run([programs.SCRIPTS / "demo_text.sh", self.shop / "text"], check=True, timeout=120)
        self.quick_start_job()
        (self.shop / "output").mkdir()
        shutil.chown(self.shop / "output", 65532, 65532)
        self.shop.parent.chmod(0o755)
        address, http = (f"127.0.0.1:{programs.free_port()}" for _ in range(2))
        server = self.start("server", "/usr/local/bin/teq-server", "--listen", address, "--http", http)
        log = self.shop / "server.log"
        programs.eventually("teq-server listens", lambda: b"listening grpc=" in log.read_bytes()
                            or server.poll() is not None, 60)
        worker = self.start("worker-cpu", "/usr/local/bin/teq-worker", "--server", address, "--max-jobs", "1")
        ran = subprocess.run(self.command("server", "/usr/local/bin/teqctl", "--server", address, "submit", "--file",
                                          "/shop/job.yaml", "--watch"), text=True, capture_output=True,
                             timeout=900, check=False)
        logs = log.read_text() + (self.shop / "worker-cpu.log").read_text()
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr + logs)
        self.assertEqual(worker.wait(60), 0)
        self.assertEqual(self.stop(server), 0)
        report = json.loads((self.shop / "output" / "report.json").read_text())
        (perplexity,) = report["perplexity"]
        self.assertLess(perplexity["full_precision"], perplexity["round_to_nearest"])
        self.assertTrue((self.shop / "output" / "gptq" / "model.safetensors").is_file())
        self.assertEqual((self.shop / "output" / "manifest.json").stat().st_uid, 65532)


if __name__ == "__main__":
    unittest.main()
