"""What users do with jobs: cancel, retry, delete, update, list, and submit again."""

import json
import signal
import unittest
import uuid

from harness import programs
from harness.jobs import Workshop

# More steps than any test waits for.
ENDLESS = 100000


class VerbsTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()

    def refused(self, reason, *arguments):
        """The error of a call that the server refuses."""
        answer = self.house.ctl(*arguments, "-o", "json")
        self.assertEqual(answer.code, 3, answer)
        status = json.loads(answer.err)
        self.assertEqual(programs.error_reason(status), reason, answer)
        return status

    def test_repeated_submission_gives_the_same_job(self):
        file, _ = self.workshop.file()
        request = str(uuid.uuid4())
        first = self.house.submit(file, "--request-id", request)
        again = self.house.submit(file, "--request-id", request)
        self.assertEqual((first["name"], first["uid"]), (again["name"], again["uid"]))
        self.assertEqual(len(self.house.ctl("list", "--project", "test", "-o", "json").json()), 1)
        other, _ = self.workshop.file(steps=5)
        self.refused("REQUEST_ID_REUSED", "submit", "-f", other, "--request-id", request)

    def test_job_id_names_one_spec(self):
        file, _ = self.workshop.file()
        first = self.house.submit(file, "--job-id", "mine")
        self.assertEqual(first["name"], "projects/test/jobs/mine")
        self.assertEqual(self.house.submit(file, "--job-id", "mine")["uid"], first["uid"])
        other, _ = self.workshop.file(steps=5)
        self.refused("JOB_EXISTS", "submit", "-f", other, "--job-id", "mine")

    def test_dry_run_stores_nothing(self):
        file, _ = self.workshop.file()
        answer = self.house.ctl("submit", "-f", file, "--validate-only")
        self.assertEqual(answer.code, 0, answer)
        self.assertEqual(self.house.ctl("list", "--project", "test", "-o", "json").json(), [])

    def test_queued_job_is_cancelled_at_once_and_can_be_retried_and_deleted(self):
        file, output = self.workshop.file()
        name = self.house.submit(file)["name"]
        self.refused("JOB_NOT_FINISHED", "delete", name)
        self.refused("JOB_NOT_RETRYABLE", "retry", name)
        self.assertEqual(self.house.ctl("cancel", name, "-o", "json").json()["state"], "CANCELLED")
        # Asking again is harmless.
        self.assertEqual(self.house.ctl("cancel", name, "-o", "json").json()["state"], "CANCELLED")
        self.assertEqual(self.house.ctl("retry", name, "-o", "json").json()["state"], "QUEUED")
        self.house.start_worker()
        self.house.wait_for_state(name, "SUCCEEDED")
        self.refused("JOB_FINISHED", "cancel", name)
        self.refused("JOB_NOT_RETRYABLE", "retry", name)
        self.assertEqual(self.house.ctl("delete", name).code, 0)
        self.refused("JOB_NOT_FOUND", "get", name)
        # What it published stays.
        self.assert_published(output)

    def test_running_job_is_cancelled_and_leaves_nothing(self):
        self.house.start_worker()
        file, output = self.workshop.file(steps=ENDLESS)
        name = self.house.submit(file)["name"]
        self.house.wait_for_training(name)
        answer = self.house.ctl("cancel", name, "-o", "json")
        self.assertIn(answer.json()["state"], ("CANCELLING", "CANCELLED"))
        self.house.wait_for_state(name, "CANCELLED", 30)
        self.assert_nothing_published(output)
        self.assert_gapless(name)
        # The worker is free for the next.
        file, output = self.workshop.file()
        self.house.wait_for_state(self.house.submit(file)["name"], "SUCCEEDED")
        self.assert_published(output)

    def test_watch_of_a_cancelled_job_ends_with_an_exit_code(self):
        file, _ = self.workshop.file()
        name = self.house.submit(file)["name"]
        self.house.ctl("cancel", name)
        answer = self.house.ctl("watch", name)
        self.assertEqual(answer.code, 1, answer)
        self.assertIn("CANCELLED", answer.out)

    def test_ctrl_c_ends_a_watch_with_130_and_the_job_goes_on(self):
        self.house.start_worker()
        file, _ = self.workshop.file(steps=ENDLESS)
        name = self.house.submit(file)["name"]
        watch = programs.Program("teqctl", ["--server", self.house.address, "watch", name],
                                 self.house.root / "watch.log")
        self.house.programs.append(watch)
        programs.eventually("the watch tells of the training", lambda: "step " in watch.output())
        watch.send(signal.SIGINT)
        self.assertEqual(watch.wait(30), 130, watch.output())
        self.assertIn(f"the job goes on; see it again with: teqctl watch {name}", watch.output())
        self.house.wait_for_training(name, self.house.job(name)["latest_metrics"]["step"] + 1)

    def test_larger_priority_runs_sooner(self):
        names = {}
        for priority in (1, 5, 3):
            file, _ = self.workshop.file(steps=1, priority=priority)
            names[self.house.submit(file)["name"]] = priority
        last = next(name for name, priority in names.items() if priority == 1)
        answer = self.house.ctl("update", last, "--priority", "9", "--label", "team=search", "-o",
                                "json")
        self.assertEqual(answer.code, 0, answer)
        names[last] = 9
        self.assertEqual(answer.json()["labels"], {"team": "search"})
        found = self.house.ctl("list", "--project", "test", "--filter", 'labels.team = "search"',
                               "-o", "json").json()
        self.assertEqual([job["name"] for job in found], [last])
        self.house.start_worker()
        ended = [self.house.wait_for_state(name, "SUCCEEDED") for name in names]
        ended.sort(key=lambda job: job["start_time"])
        self.assertEqual([names[job["name"]] for job in ended], [9, 5, 3])

    def test_list_gives_all_pages(self):
        file, _ = self.workshop.file()
        job = self.workshop.job()
        names = []
        for number in range(205):
            job["output"] = {"uri": programs.file_uri(self.house.root / f"out-{number}")}
            names.append(self.house.submit(self.workshop.write(job))["name"])
        listed = self.house.ctl("list", "--project", "test", "-o", "json").json()
        self.assertEqual([entry["name"] for entry in listed], names[::-1])
        limited = self.house.ctl("list", "--project", "test", "--limit", "3", "-o", "json").json()
        self.assertEqual([entry["name"] for entry in limited], names[:-4:-1])
        self.refused("INVALID_FILTER", "list", "--project", "test", "--filter", "colour = RED")


if __name__ == "__main__":
    unittest.main()
