"""The Dockerfile is well formed, and what the server's image holds runs without anything else around it.

No image is built here: that takes a base image and a build of the engine.
"""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import tools
from harness import programs

DOCKERFILE = tools.ROOT / "Dockerfile"
LARGEST_SERVER = 120 << 20

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
        self.assertTrue(stages[1].startswith("scratch AS server"))

    def test_files_that_it_copies_exist(self):
        for line in re.findall(r"(?m)^COPY (?!--from)(.*)", DOCKERFILE.read_text()):
            for source in line.split()[:-1]:
                self.assertTrue((tools.ROOT / source).exists(), source)


class ServerRootTest(unittest.TestCase):
    """The directory that becomes the server's image, as the root of a process."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.root = pathlib.Path(cls.temporary.name) / "root"
        subprocess.run([tools.ROOT / "deploy" / "docker" / "closure.sh", cls.root,
                        programs.BIN / "teq-server", programs.BIN / "teqctl"], check=True, timeout=60)

    def inside(self, *command):
        """A command with that root; a user namespace allows it where we are not root."""
        enter = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
        return [*enter, "chroot", str(self.root), *command]

    def test_it_is_small(self):
        size = sum(f.lstat().st_size for f in self.root.rglob("*") if f.is_file())
        self.assertLess(size, LARGEST_SERVER)

    def test_programs_run_in_it(self):
        for program in ("teq-server", "teqctl"):
            ran = subprocess.run(self.inside(f"/usr/local/bin/{program}", "--help"), text=True,
                                 capture_output=True, timeout=60, check=False)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_server_serves_and_client_calls_in_it(self):
        port, http = programs.free_port(), programs.free_port()
        log = self.root.parent / "server.log"
        with open(log, "wb") as output:
            server = subprocess.Popen(
                self.inside("/usr/local/bin/teq-server", "--listen", f"127.0.0.1:{port}", "--http",
                            f"127.0.0.1:{http}", "--data", "/var/lib/teqd"),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            programs.eventually("teq-server listens", lambda: b"listening grpc=" in log.read_bytes()
                                or server.poll() is not None, 30)
            ran = subprocess.run(self.inside("/usr/local/bin/teqctl", "--server", f"127.0.0.1:{port}",
                                             "list"), text=True, capture_output=True, timeout=60,
                                 check=False)
            self.assertEqual(ran.returncode, 0, log.read_text() + ran.stderr)
        finally:
            server.terminate()
            self.assertEqual(server.wait(60), 0)


if __name__ == "__main__":
    unittest.main()
