"""A disk that fills up during the export. Mounts a small tmpfs, in a namespace of its own where the
user is not root."""

import os
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

    def test_full_disk_fails_the_export_and_leaves_nothing(self):
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
        self.assertIn(str(disk), ended["error"]["message"])
        self.assert_nothing_published(disk / "output")

        # With room, the same job works.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        name = ended["name"]
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
        self.assertEqual(store.objects, {})
        self.assertEqual(list((disk / "staging").iterdir()), [])

        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        self.assertEqual(self.house.ctl("retry", ended["name"]).code, 0)
        self.house.wait_for_state(ended["name"], "SUCCEEDED")
        self.assertIn("output/manifest.json", store.objects)


if __name__ == "__main__":
    unittest.main()
