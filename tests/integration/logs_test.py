"""Lines of server and worker as JSON, and the trace that goes with a job."""

import json
import re
import unittest

from harness import programs
from harness.jobs import Workshop

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class LogsTest(programs.HouseTest):
    def json_lines(self, program):
        """Every line that the program wrote, each a JSON object with time, level and message."""
        lines = [json.loads(line) for line in program.output().splitlines()]
        for line in lines:
            self.assertRegex(line["ts"], TIME)
            self.assertIn(line["level"], ("info", "warning", "error"))
            self.assertTrue(line["msg"])
        return lines

    def submit_and_wait(self, **options):
        """A job that has succeeded."""
        job, _ = Workshop(self.house.root / "shop").file(steps=2)
        submitted = self.house.ctl("submit", "-f", job, "-o", "json", **options)
        self.assertEqual(submitted.code, 0, submitted)
        return self.house.wait_for_state(submitted.json()["name"], "SUCCEEDED")

    def test_clients_trace_is_in_the_job_and_on_the_lines_of_server_and_worker(self):
        with self.house.config.open("a") as config:
            config.write("log_format: json\n")
        server = self.house.start_server()
        worker = self.house.start_worker("w-1", arguments=["--log-format", "json"])
        job = self.submit_and_wait(environment={"TRACEPARENT": TRACEPARENT})
        self.assertEqual(job["traceparent"], TRACEPARENT)
        self.assertEqual(worker.terminate(), 0)
        self.assertEqual(server.terminate(), 0)

        about = {"job": job["name"], "attempt": 1, "fence": 1, "worker": "w-1", "trace_id": TRACE_ID}
        told = [line for line in self.json_lines(worker) if "job" in line]
        self.assertGreater(len(told), 5)
        for line in told:
            self.assertEqual({key: line.get(key) for key in about}, about)
        for line in self.json_lines(worker):
            self.assertEqual(line["worker"], "w-1")
        states = [line for line in self.json_lines(server) if "job" in line]
        self.assertEqual([line["msg"].split(":")[0] for line in states],
                         ["QUEUED", "RUNNING", "PUBLISHING", "SUCCEEDED"])
        for line in states:
            self.assertEqual((line["job"], line["trace_id"]), (job["name"], TRACE_ID))

    def test_engines_own_lines_carry_the_trace(self):
        self.house.start_server()
        # Makes the runtime of OpenMP print its settings as a process begins: the engine's, and the
        # worker's own before it can format lines.
        worker = self.house.start_worker("w-1", arguments=["--log-format", "json"],
                                         environment={"OMP_DISPLAY_ENV": "true"})
        job = self.submit_and_wait(environment={"TRACEPARENT": TRACEPARENT})
        self.assertEqual(worker.terminate(), 0)
        lines = worker.output().splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("{"))
        said = [line for line in map(json.loads, lines[first:])
                if line["msg"].startswith("engine: ")]
        self.assertTrue(any("OMP_NUM_THREADS" in line["msg"] for line in said), lines)
        for line in said:
            self.assertEqual((line["job"], line["trace_id"], line["worker"]),
                             (job["name"], TRACE_ID, "w-1"))

    def test_lines_are_readable_by_default_and_a_trace_is_made(self):
        self.house.start_server()
        worker = self.house.start_worker("w-1")
        job = self.submit_and_wait(environment={"TRACEPARENT": "00-not-a-trace"})
        found = re.fullmatch("00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]", job["traceparent"])
        self.assertTrue(found, job["traceparent"])
        self.assertRegex(worker.output(), rf"info {job['name']}: lease 1 acquired.*trace {found[1]}")
        self.assertNotIn("{", worker.output())

    def test_environment_asks_for_json_and_errors_at_the_start_are_json_too(self):
        for program, arguments in (("teq-server", ["--listen", "nowhere"]),
                                   ("teq-worker", ["--id", "not an id"])):
            answer = programs.run(program, *arguments, seconds=30,
                                  environment={"TEQ_LOG_FORMAT": "json"})
            self.assertEqual(answer.code, 2, answer)
            line = json.loads(answer.err)
            self.assertEqual(line["level"], "error")
            self.assertRegex(line["msg"], "^INVALID_")
        answer = programs.run("teq-worker", "--log-format", "xml", seconds=30)
        self.assertEqual(answer.code, 2, answer)


if __name__ == "__main__":
    unittest.main()
