"""A disk that is too small for a job, or fills up during it. Mounts a small tmpfs, in a namespace of
its own where the user is not root."""

import os
import re
import subprocess
import unittest

from harness import programs, s3_server
from harness.jobs import Workshop


class FullDiskTest(programs.HouseTest):
    def mount(self, size):
        """A directory on a file system of `size` bytes."""
        disk = self.house.root / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)],
                       check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(disk)], check=False)
        return disk

    def runs_as_root(self):
        """Whether this process may mount; if not, the same test has run as root of a new user and mount
        namespace."""
        if os.geteuid() == 0:
            return True
        again = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "python3",
                                "-B", "-m", "unittest", self.id()], check=False)
        self.assertEqual(again.returncode, 0)
        return False

    def test_small_disk_fails_the_job_before_its_work_begins_and_leaves_nothing(self):
        if not self.runs_as_root():
            return
        workshop = Workshop(self.house.root / "shop")
        disk = self.mount(64 << 10)
        self.house.start_server()
        self.house.start_worker()
        job = workshop.job(steps=1)
        job["limits"] = {"max_attempts": 1}
        job["output"]["uri"] = programs.file_uri(disk / "output")
        answer = self.house.ctl("submit", "-f", workshop.write(job), "--watch", "-o", "json")
        self.assertEqual(answer.code, 1, answer)
        ended = answer.json()
        self.assertEqual(self.house.reason(ended), "DISK_FULL")
        message = ended["error"]["message"]
        self.assertIn(str(disk), message)
        needed = int(re.search(r"at least (\d+) bytes are needed there for the output", message)[1])
        self.assert_nothing_published(disk / "output")

        # With room, the same job works, and takes what it asked for.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        name = ended["name"]
        self.assertEqual(self.house.ctl("retry", name).code, 0)
        self.house.wait_for_state(name, "SUCCEEDED")
        self.assert_published(disk / "output")
        weights = (disk / "output" / "gptq" / "model.safetensors").stat().st_size
        self.assertLess(abs(needed - weights), 0.01 * weights)

    def test_disk_that_fills_up_fails_the_export_and_leaves_nothing(self):
        if not self.runs_as_root():
            return
        workshop = Workshop(self.house.root / "shop")
        disk = self.mount(8 << 20)
        self.house.start_server()
        self.house.start_worker()
        job = workshop.job(steps=600)
        job["limits"] = {"max_attempts": 1}
        job["output"]["uri"] = programs.file_uri(disk / "output")
        name = self.house.submit(workshop.write(job))["name"]
        self.house.wait_for_training(name)
        filler = disk / "filler"
        with self.assertRaises(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        ended = self.house.wait_for_state(name, "FAILED")
        self.assertEqual(self.house.reason(ended), "DISK_FULL")
        self.assertIn(str(disk), ended["error"]["message"])
        self.assertIn("cannot be written", ended["error"]["message"])
        self.assert_nothing_published(disk / "output")

        filler.unlink()
        self.assertEqual(self.house.ctl("retry", name).code, 0)
        self.house.wait_for_state(name, "SUCCEEDED")
        self.assert_published(disk / "output")

    def test_full_staging_disk_fails_the_upload_before_it_begins_and_leaves_nothing(self):
        if not self.runs_as_root():
            return
        store = s3_server.S3Server()
        self.addCleanup(store.close)
        workshop = Workshop(self.house.root / "shop")
        disk = self.mount(64 << 10)
        self.house.start_server()
        self.house.start_worker(environment=store.environment, arguments=["--data", disk])
        job = workshop.job(steps=1)
        job["limits"] = {"max_attempts": 1}
        job["output"]["uri"] = "s3://bucket/output"
        ended = self.house.ctl("submit", "-f", workshop.write(job), "--watch", "-o", "json").json()
        self.assertEqual(self.house.reason(ended), "DISK_FULL", ended["error"])
        self.assertIn(str(disk), ended["error"]["message"])
        self.assertIn("scratch files and the output", ended["error"]["message"])
        self.assertEqual(store.objects, {})
        self.assertEqual(list((disk / "staging").iterdir()), [])

        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        self.assertEqual(self.house.ctl("retry", ended["name"]).code, 0)
        self.house.wait_for_state(ended["name"], "SUCCEEDED")
        self.assertIn("output/manifest.json", store.objects)


if __name__ == "__main__":
    unittest.main()
