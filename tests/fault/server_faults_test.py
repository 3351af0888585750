"""A server that is killed or told to stop, at any time."""

import signal
import subprocess
import threading
import time
import unittest
import uuid

from harness import programs
from harness.jobs import Workshop

# Long enough to be hit in the middle, though the server hears of it once a second.
STEPS = 600
KILLS = 20 if programs.FULL else 4
STAGES = ["", "FETCH", "BASELINE_EVAL", "CALIBRATE", "TRANSFORM", "ROUND", "PACK", "VERIFY",
          "PUBLISH"]


class ServerFaultsTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()

    def assert_ended_well(self, name, output):
        job = self.house.wait_for_state(name, "SUCCEEDED", 180)
        self.assert_published(output)
        self.assert_gapless(name)
        return job

    def job_from(self, name, stage):
        """The job, if it is in that stage or beyond."""
        job = self.house.job(name)
        reached = job.get("progress", {}).get("stage", "").replace("UNSPECIFIED", "")
        return job if STAGES.index(reached) >= STAGES.index(stage) else None

    def test_server_killed_again_and_again_loses_no_job_and_no_event(self):
        steps = 3 * STEPS  # so that the first heartbeat does not tell of the second half
        self.house.start_worker()
        file, output = self.workshop.file(steps)
        name = self.house.submit(file)["name"]
        kills = 0
        while kills < KILLS:
            seen = self.house.wait_for_training(name, step=1)["latest_metrics"]["step"]
            if seen > steps // 2:
                break
            self.house.server.kill()
            kills += 1
            self.house.start_server()
            # What was acknowledged is still there.
            self.assertGreaterEqual(self.house.job(name)["latest_metrics"]["step"], seen)
        self.assertGreater(kills, 0)
        job = self.assert_ended_well(name, output)
        # The lease outlived every restart.
        self.assertEqual((job["attempt_count"], job["fence"]), (1, 1))

    def test_server_killed_at_each_stage_of_a_job(self):
        self.house.start_worker()
        for stage in ("FETCH", "BASELINE_EVAL", "CALIBRATE", "TRANSFORM", "ROUND", "VERIFY"):
            with self.subTest(stage=stage):
                # After a long training the job is met before its end, but for the stages behind it.
                is_certain = STAGES.index(stage) <= STAGES.index("TRANSFORM")
                file, output = self.workshop.file(STEPS if is_certain else 20)
                name = self.house.submit(file)["name"]
                job = programs.eventually(
                    stage, lambda n=name, s=stage: self.job_from(n, s), 60, interval=0.01)
                if is_certain:
                    self.assertEqual(job["state"], "RUNNING")
                self.house.server.kill()
                self.house.start_server()
                self.assert_ended_well(name, output)

    def test_submission_repeated_over_a_kill_gives_one_job(self):
        file, _ = self.workshop.file()
        for _ in range(KILLS):
            request = str(uuid.uuid4())
            killer = threading.Timer(0.02, self.house.server.kill)
            killer.start()
            self.house.ctl("submit", "-f", file, "--request-id", request, "--job-id",
                           f"j-{request}")
            killer.join()
            self.house.start_server()
            # Whether the first call was answered or not, the second gives the one job.
            again = self.house.ctl("submit", "-f", file, "--request-id", request, "--job-id",
                                   f"j-{request}", "-o", "json")
            self.assertEqual(again.code, 0, again)
            name = again.json()["name"]
            listed = self.house.ctl("list", "--project", "test", "-o", "json").json()
            self.assertEqual([job["name"] for job in listed].count(name), 1)
            self.assertEqual(self.house.ctl("cancel", name).code, 0)

    def test_server_told_to_stop_drains_and_no_job_changes_state(self):
        worker = self.house.start_worker()
        file, output = self.workshop.file(STEPS)
        name = self.house.submit(file)["name"]
        before = self.house.wait_for_training(name)
        begin = time.monotonic()
        self.assertEqual(self.house.server.terminate(30), 0)
        self.assertLess(time.monotonic() - begin, 15)
        self.house.start_server()
        after = self.house.job(name)
        self.assertEqual((after["state"], after["fence"], after["worker"]),
                         (before["state"], before["fence"], before["worker"]))
        job = self.assert_ended_well(name, output)
        self.assertEqual((job["attempt_count"], job["preemption_count"], job["fence"]), (1, 0, 1))
        self.assertTrue(worker.running)

    def test_watch_goes_on_over_a_restart(self):
        self.house.start_worker()
        file, output = self.workshop.file(STEPS)
        name = self.house.submit(file)["name"]
        log = (self.house.root / "watch.log").open("wb")
        with log, subprocess.Popen([str(programs.BIN / "teqctl"), "--server", self.house.address,
                                    "watch", name], stdout=log, stderr=subprocess.STDOUT) as watch:
            self.house.wait_for_training(name)
            self.house.server.kill()
            self.house.start_server()
            self.assert_ended_well(name, output)
            self.assertEqual(watch.wait(60), 0, (self.house.root / "watch.log").read_text())
        self.assertIn("SUCCEEDED", (self.house.root / "watch.log").read_text())

    def test_stop_of_server_and_worker_together_keeps_the_job(self):
        worker = self.house.start_worker()
        file, output = self.workshop.file(STEPS)
        name = self.house.submit(file)["name"]
        self.house.wait_for_training(name)
        self.house.server.kill()
        worker.send(signal.SIGTERM)
        worker.wait(60)
        self.house.start_server()
        self.house.start_worker()
        self.assert_ended_well(name, output)


if __name__ == "__main__":
    unittest.main()
