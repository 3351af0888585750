"""Workers that are killed, stopped, paused, or die between the steps of a publication."""

import os
import signal
import unittest

from harness import programs
from harness.jobs import Workshop

# Long enough to be hit in the middle, though the server hears of it once a second; short enough to be run again.
STEPS = 600
KILLS = 10 if programs.FULL else 1


class WorkerTest(programs.HouseTest):
    """A test with a server, and jobs for workers."""

    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()

    def submit(self, steps=STEPS, **changes):
        """A job's name and output."""
        file, output = self.workshop.file(steps, **changes)
        return self.house.submit(file)["name"], output

    def assert_ended_well(self, name, output, **expected):
        job = self.house.wait_for_state(name, "SUCCEEDED")
        for field, value in expected.items():
            self.assertEqual(job[field], value, field)
        manifest = self.assert_published(output)
        self.assertEqual(manifest["job"], name)
        self.assert_gapless(name)
        return job, manifest


class WorkerFaultsTest(WorkerTest):
    def test_worker_killed_in_training_does_not_lose_the_job(self):
        for _ in range(KILLS):
            name, output = self.submit()
            worker = self.house.start_worker()
            self.house.wait_for_training(name)
            engines = children(worker.pid)
            worker.kill()
            # The engine does not go on without its agent.
            programs.eventually("the engine ends", lambda pids=engines: not any(map(alive, pids)), 30)
            heir = self.house.start_worker()
            _, manifest = self.assert_ended_well(name, output, attempt_count=2, fence=2)
            self.assertEqual(manifest["fence"], 2)
            heir.terminate()

    def test_engine_killed_in_training_does_not_take_the_agent_with_it(self):
        name, output = self.submit()
        worker = self.house.start_worker()
        self.house.wait_for_training(name)
        for engine in children(worker.pid):
            os.kill(engine, signal.SIGKILL)
        self.assert_ended_well(name, output, attempt_count=2)
        self.assertTrue(worker.running)

    def test_worker_restarted_under_its_id_gives_the_lease_up_early(self):
        name, output = self.submit()
        worker = self.house.start_worker("pod-0")
        self.house.wait_for_training(name)
        worker.kill()
        self.house.start_worker("pod-0")
        self.assert_ended_well(name, output, fence=2)

    def test_result_of_a_worker_paused_beyond_its_lease_is_rejected(self):
        name, output = self.submit()
        sleeper = self.house.start_worker()
        self.house.wait_for_training(name, step=1)
        sleeper.send(signal.SIGSTOP)
        self.house.wait_for(name, "the lease expires", lambda job: job["state"] in ("QUEUED", "RETRY_WAIT"))
        heir = self.house.start_worker()
        job, manifest = self.assert_ended_well(name, output, fence=2)
        sleeper.send(signal.SIGCONT)
        # The sleeper goes on working, for the next job.
        heir.terminate()
        other, other_output = self.submit(steps=2)
        self.assert_ended_well(other, other_output)
        again = self.house.job(name)
        self.assertEqual((again["state"], again["fence"], again["manifest_sha256"]),
                         ("SUCCEEDED", 2, job["manifest_sha256"]))
        self.assertEqual(self.assert_published(output), manifest)

    def test_paused_worker_that_wakes_while_the_new_owner_works_changes_nothing(self):
        name, output = self.submit()
        sleeper = self.house.start_worker()
        self.house.wait_for_training(name)
        sleeper.send(signal.SIGSTOP)
        self.house.wait_for(name, "the lease expires", lambda job: job["state"] in ("QUEUED", "RETRY_WAIT"))
        self.house.start_worker()
        self.house.wait_for(name, "the new owner works", lambda job: job["fence"] == 2)
        sleeper.send(signal.SIGCONT)
        _, manifest = self.assert_ended_well(name, output, fence=2)
        self.assertEqual(manifest["fence"], 2)

    def test_worker_that_dies_before_any_step_of_publication_leaves_one_manifest(self):
        for point in ("complete_success", "publish_rename", "publish_manifest",
                      "complete_published"):
            with self.subTest(point=point):
                name, output = self.submit(steps=2)
                worker = self.house.start_worker(environment={"TEQ_CRASH_AT": point})
                self.assertEqual(worker.wait(60), -signal.SIGKILL)
                self.assertNotEqual(self.house.job(name)["state"], "SUCCEEDED")
                manifest_there = (output / "manifest.json").exists()
                self.assertEqual(manifest_there, point == "complete_published")
                heir = self.house.start_worker()
                job, manifest = self.assert_ended_well(name, output)
                # Once the content is committed, the heir publishes it and nothing else.
                committed = point != "complete_success"
                self.assertEqual(manifest["fence"], 1 if committed else 2)
                self.assertEqual(job["attempt_count"], 1 if committed else 2)
                heir.terminate()

    def test_batch_worker_ends_after_its_job_and_when_there_is_none(self):
        name, output = self.submit(steps=2)
        self.submit(steps=2)
        worker = self.house.start_worker(arguments=["--max-jobs", "1"])
        self.assertEqual(worker.wait(60), 0)
        self.assert_ended_well(name, output)
        worker = self.house.start_worker(arguments=["--exit-when-idle"])
        self.assertEqual(worker.wait(120), 0)
        jobs = self.house.ctl("list", "--project", "test", "-o", "json").json()
        self.assertEqual([job["state"] for job in jobs], ["SUCCEEDED"] * 2)


class StoppedWorkerTest(WorkerTest):
    lease = "60s"

    def test_stopped_worker_hands_its_job_back_at_once_and_burns_no_attempt(self):
        name, output = self.submit()
        worker = self.house.start_worker()
        before = self.house.wait_for_training(name)
        self.assertEqual(before["attempt_count"], 1)
        worker.send(signal.SIGTERM)
        # Well before the lease would end by itself.
        job = self.house.wait_for_state(name, "QUEUED", 15)
        self.assertEqual((job["attempt_count"], job["preemption_count"]), (0, 1))
        self.assertEqual(worker.wait(30), 0)
        self.assert_nothing_published(output)
        self.house.start_worker()
        self.assert_ended_well(name, output, attempt_count=1, preemption_count=1, fence=2)


def children(pid):
    """Process ids of a process's children."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    unittest.main()
