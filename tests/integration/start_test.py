"""Programs that cannot start say why, and how the others do."""

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import unittest

from harness import programs
from harness.jobs import Workshop


class StartTest(programs.HouseTest):
    def start(self, *arguments):
        return programs.run("teq-server", "--data", self.house.data, *arguments, seconds=30)

    def refused(self, reason, *arguments):
        answer = self.start(*arguments)
        self.assertNotEqual(answer.code, 0, answer)
        self.assertIn(f"teq-server: {reason}: ", answer.err)
        return answer.err

    def test_port_in_use_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            self.assertIn(address, self.refused("ADDRESS_UNAVAILABLE", "--listen", address,
                                                "--http", "127.0.0.1:0"))
            http = self.start("--listen", "127.0.0.1:0", "--http", address)
            self.assertEqual(http.code, 1, http)
            self.assertIn(address, http.err)

    def test_worker_that_can_keep_no_files_takes_no_jobs(self):
        file = self.house.root / "file"
        file.write_text("in the way")
        answer = programs.run("teq-worker", "--server", "127.0.0.1:1", "--data", file, seconds=30)
        self.assertEqual(answer.code, 2, answer)
        self.assertIn(f"--data): {file}: cannot be written", answer.err)

    def test_wrong_usage_has_its_reason(self):
        for program, *command in (["teq-server"], ["teq-worker"], ["teqctl", "list"]):
            answer = programs.run(program, *command, "--junk", seconds=30)
            self.assertEqual(answer.code, 2, answer)
            self.assertIn(f"{program}: USAGE: ", answer.err)
            self.assertIn("--junk", answer.err)

    def test_output_that_cannot_be_written_is_no_success(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            ended = subprocess.run([str(programs.BIN / "teqctl"), "recipe"], stdout=full,
                                   stderr=subprocess.PIPE, timeout=30, check=False)
        self.assertEqual(ended.returncode, 1)
        self.assertIn(b"teqctl: WRITE_FAILED: ", ended.stderr)

    def test_prefix_that_the_worker_could_never_match_is_refused_at_its_start(self):
        answer = programs.run("teq-worker", "--server", "127.0.0.1:1", "--uri-prefix",
                              "s4://bucket/", seconds=30, directory=self.house.root)
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("teq-worker: INVALID_URI: uri_prefixes: ", answer.err)
        self.assertIn("s4://bucket/", answer.err)

    def test_second_worker_of_one_name_is_refused_and_the_first_goes_on(self):
        self.house.start_server()
        first = self.house.start_worker("twin")
        programs.eventually("it is registered", lambda: "registered as twin" in first.output())
        second = programs.run("teq-worker", "--server", self.house.address, "--id", "twin", "--data",
                              self.house.worker_data, seconds=30)
        self.assertEqual(second.code, 2, second)
        self.assertIn("teq-worker: WORKER_ID_IN_USE: id: 'twin' ", second.err)
        self.assertIn("--id", second.err)
        job, _ = Workshop(self.house.root / "shop").file(steps=2)
        self.house.wait_for_state(self.house.submit(job)["name"], "SUCCEEDED")
        self.assertEqual(first.output().count("registered as twin"), 1)

    def test_worker_that_could_never_reach_a_server_or_write_is_refused_at_its_start(self):
        config = self.house.root / "worker.yaml"
        for text, flags, words in (('server: ""\n', (), 'server: "" '), ('data: ""\n', (), "data: "),
                                   ("", ("--server", "localhost"), 'server: "localhost" ')):
            config.write_text(text)
            answer = programs.run("teq-worker", "--config", config, *flags, seconds=30)
            self.assertEqual(answer.code, 2, answer)
            self.assertIn("teq-worker: INVALID_CONFIG: " + words, answer.err)

    def test_run_without_a_server_refuses_flags_that_only_a_worker_with_one_reads(self):
        for flags in (("--server", "127.0.0.1:1"), ("--id", "w"), ("--http", "127.0.0.1:0"),
                      ("--max-jobs", "1"), ("--exit-when-idle",)):
            answer = programs.run("teq-worker", "run", "--job", "none.yaml", *flags, seconds=30)
            self.assertEqual(answer.code, 2, answer)
            self.assertIn(f"teq-worker: USAGE: {flags[0]}: ", answer.err)

    def test_device_index_that_nothing_has_is_refused_at_the_workers_start(self):
        for flags, environment in ((("--device-index", "100"), {}), ((), {"TEQ_DEVICE_INDEX": "100"})):
            answer = programs.run("teq-worker", "--server", "127.0.0.1:1", *flags, seconds=30,
                                  environment=environment, directory=self.house.root)
            self.assertEqual(answer.code, 2, answer)
            self.assertIn("teq-worker: DEVICE_NOT_AVAILABLE: ", answer.err)
            self.assertIn("device_index is 100", answer.err)
            self.assertIn("--device-index", answer.err)

    def test_signal_ends_a_program_that_has_not_begun_yet(self):
        # By a handler: process 1 of a container gets no signal that it has none for.
        for name in ("teq-server", "teq-worker"):
            with self.subTest(program=name):
                config = self.house.root / f"{name}.yaml"
                os.mkfifo(config)
                program = programs.Program(name, ["--config", config], self.house.root / f"{name}-early.log")
                self.house.programs.append(program)

                def writer(path=config):
                    with contextlib.suppress(OSError):  # nobody reads yet
                        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    return None

                self.addCleanup(os.close, programs.eventually("it reads its configuration", writer))
                self.assertEqual(program.terminate(30), 128 + signal.SIGTERM, program.output())

    def test_limit_of_open_files_is_raised_to_what_the_system_allows(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.house.start_server()
        worker = self.house.start_worker()
        programs.eventually("it is registered", lambda: "registered as" in worker.output())
        for program in (self.house.server, worker):
            self.assertEqual(resource.prlimit(program.pid, resource.RLIMIT_NOFILE),
                             (min(hard, 2**20), hard), program.name)

    def test_database_of_another_program_is_refused_and_stays_as_it_was(self):
        self.house.start_server()
        self.house.server.terminate()
        (database,) = [f for f in self.house.data.rglob("*") if f.is_file() and
                       f.read_bytes()[:15] == b"SQLite format 3"]
        for leftover in self.house.data.iterdir():
            leftover.unlink()
        with contextlib.closing(sqlite3.connect(database)) as store, store:
            store.execute("CREATE TABLE recipes (cake TEXT)")
        before = database.read_bytes()
        self.assertIn(str(database), self.refused("NOT_OUR_DATABASE", "--listen", "127.0.0.1:0",
                                                  "--http", "127.0.0.1:0"))
        self.assertEqual(database.read_bytes(), before)

    def test_file_that_is_no_database_is_refused(self):
        self.house.start_server()
        self.house.server.terminate()
        (database,) = [f for f in self.house.data.rglob("*") if f.is_file() and
                       f.read_bytes()[:15] == b"SQLite format 3"]
        database.write_bytes(b"shopping list\n" * 100)
        answer = self.start("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        self.assertEqual(answer.code, 1, answer)
        self.assertIn(str(database), answer.err)

    def test_second_server_on_the_same_data_is_refused(self):
        self.house.start_server()
        self.assertIn(str(self.house.data), self.refused(
            "DATA_DIRECTORY_IN_USE", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"))

    def test_unknown_key_of_a_config_is_named_with_its_line(self):
        config = self.house.root / "bad.yaml"
        config.write_text("listen: 127.0.0.1:0\nlisten_http: 127.0.0.1:0\n")
        self.assertIn(f"{config}:2: listen_http", self.refused("INVALID_CONFIG", "--config", config))
        worker = programs.run("teq-worker", "--config", config, seconds=30)
        self.assertEqual(worker.code, 2, worker)
        self.assertIn(f"{config}:1: listen", worker.err)

    def test_address_that_others_reach_needs_a_list_of_uris(self):
        self.refused("URI_PREFIXES_REQUIRED", "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0")

    def test_teqctl_without_a_server_says_so(self):
        answer = self.house.ctl("list")
        self.assertEqual(answer.code, 4, answer)
        self.assertIn("SERVER_UNREACHABLE", answer.err)
        self.assertIn(self.house.address, answer.err)


if __name__ == "__main__":
    unittest.main()
