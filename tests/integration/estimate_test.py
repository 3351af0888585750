"""What a job would take, before it runs; and how near that comes."""

import json
import pathlib
import struct
import unittest

from harness import programs
from harness.jobs import Workshop

DEMO = programs.FIXTURES / "demo-llama"


class EstimateTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()

    def estimate(self, file, *arguments):
        answer = self.house.ctl("estimate", "-f", file, "-o", "json", *arguments)
        self.assertEqual(answer.code, 0, answer)
        return answer.json()

    def known(self, file):
        """The estimate once a worker has told its speed."""
        return programs.eventually("the worker registers", lambda: (
            lambda found: found if found["workers"] else None)(self.estimate(file)))

    def test_estimate_knows_the_workers_speed_and_stores_nothing(self):
        file, _ = self.workshop.file()
        self.assertEqual(self.estimate(file)["workers"], [])
        self.house.start_worker("speedy")
        estimate = self.known(file)
        (worker,) = estimate["workers"]
        self.assertEqual((worker["worker"], worker["device"]), ("speedy", "CPU"))
        self.assertGreater(worker["seconds"], 0)
        self.assertAlmostEqual(sum(stage["seconds"] for stage in estimate["stages"]),
                               worker["seconds"])
        memory = 1024 * next(int(line.split()[1]) for line in
                             pathlib.Path("/proc/meminfo").read_text().splitlines()
                             if line.startswith("MemTotal"))
        self.assertLessEqual(worker["memory_limit_bytes"], 0.6 * memory)
        self.assertEqual([stage["stage"] for stage in estimate["stages"]],
                         ["FETCH", "BASELINE_EVAL", "CALIBRATE", "TRANSFORM", "ROUND", "PACK",
                          "VERIFY", "PUBLISH"])
        self.assertEqual(estimate["hidden_states"], "IN_MEMORY")
        self.assertEqual(self.house.ctl("list", "--project", "test", "-o", "json").json(), [])
        table = self.house.ctl("estimate", "-f", file)
        for words in ("STAGE", "BASELINE_EVAL", "speedy", "GPTQ", "note: "):
            self.assertIn(words, table.out)

    def test_a_limit_spills_what_does_not_fit_and_refuses_what_cannot(self):
        job = self.workshop.job(evaluation={"sequence_length": 64})
        job["recipe"]["transform"]["teq"]["objective"] = "BLOCK_MSE"
        estimate = self.estimate(self.workshop.write(job))
        peak, least = estimate["peak_host_bytes"], estimate["least_memory_limit_bytes"]
        self.assertLess(least, peak)

        job["resources"] = {"memory_limit_bytes": peak}
        self.assertEqual(self.estimate(self.workshop.write(job))["hidden_states"], "IN_MEMORY")
        job["resources"] = {"memory_limit_bytes": peak - 1}
        spilled = self.estimate(self.workshop.write(job))
        self.assertEqual(spilled["hidden_states"], "IN_FILES")
        self.assertLess(spilled["peak_host_bytes"], peak)
        self.assertGreater(spilled["peak_scratch_bytes"], estimate["peak_scratch_bytes"])

        job["resources"] = {"memory_limit_bytes": least - 1}
        file = self.workshop.write(job)
        for verb in (["estimate"], ["estimate", "--local"], ["submit"], ["submit", "--validate-only"]):
            answer = self.house.ctl(*verb, "-f", file, "-o", "json")
            self.assertEqual(answer.code, 3, answer)
            status = json.loads(answer.err)
            self.assertEqual(programs.error_reason(status), "MEMORY_LIMIT", answer)
            self.assertIn(f"needs {least} bytes", status["message"])
        job["resources"] = {"memory_limit_bytes": 16}
        answer = self.house.ctl("estimate", "-f", self.workshop.write(job))
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("resources.memory_limit_bytes: 16 is out of range", answer.err)

    def test_local_estimate_is_the_servers_without_times(self):
        # With a limit of the job's own, the plan does not depend on what memory the worker has.
        file, _ = self.workshop.file(resources={"memory_limit_bytes": 1 << 30})
        self.house.start_worker()
        estimate = self.known(file)
        self.assertGreater(estimate["workers"].pop()["seconds"], 0)
        for stage in estimate["stages"]:
            self.assertGreaterEqual(stage.pop("seconds"), 0)
        # What the time of measuring was taken from.
        self.assertIn("are taken to have", estimate["notes"].pop())
        self.assertEqual(self.estimate(file, "--local"), estimate)


class OutputSizeTest(unittest.TestCase):
    """Published files of the demo model against what the estimate says."""

    RECIPES = [
        ({"bits": 4, "group_size": 32, "symmetric": False},
         ["GPTQ", "AWQ", "COMPRESSED_TENSORS", "GGUF", "DEQUANTIZED"]),
        ({"bits": 8, "group_size": 64, "symmetric": True}, ["GGUF", "COMPRESSED_TENSORS"]),
        ({"bits": 3, "group_size": 128, "symmetric": False}, ["GPTQ", "COMPRESSED_TENSORS"]),
    ]

    def test_weights_of_every_format_are_as_large_as_told(self):
        house = programs.House()
        self.addCleanup(house.close)
        workshop = Workshop(house.root / "shop")
        for weights, formats in self.RECIPES:
            output = house.root / f"output-{weights['bits']}"
            job = workshop.job(
                model={"uri": programs.file_uri(DEMO)}, evaluation={},
                recipe={"weights": weights, "rounding": {"nearest": {}}},
                output={"uri": programs.file_uri(output), "formats": formats})
            file = workshop.write(job)
            answer = programs.run("teqctl", "estimate", "--local", "-f", file, "-o", "json")
            self.assertEqual(answer.code, 0, answer)
            told = {entry["format"]: entry["bytes"] for entry in answer.json()["outputs"]}
            run = programs.run("teq-worker", "run", "--job", file, "--data", house.root / "data")
            self.assertEqual(run.code, 0, run)
            for name in formats:
                directory = output / name.lower()
                with self.subTest(format=name, bits=weights["bits"]):
                    if name == "GGUF":
                        self.assertEqual(told[name], tensor_bytes(directory / "model.gguf"))
                        continue
                    size = (directory / "model.safetensors").stat().st_size
                    self.assertLess(abs(told[name] - size), 0.0005 * size)
                    # All but the tokenizer, with configuration and card.
                    whole = sum(f.stat().st_size for f in directory.iterdir()
                                if not f.name.startswith("tokenizer"))
                    self.assertLess(abs(told[name] - whole), 0.02 * whole)


def tensor_bytes(file):
    """Bytes of a GGUF file behind its header: those of its tensors, each padded."""
    content = file.read_bytes()
    place = 4

    def number(kind):
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, content, place)
        place += struct.calcsize("<" + kind)
        return value

    def skip_text():
        nonlocal place
        size = number("Q")
        place += size

    def skip(kind):
        nonlocal place
        if kind == 8:
            skip_text()
        elif kind == 9:
            element, count = number("I"), number("Q")
            for _ in range(count):
                skip(element)
        else:
            place += {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4)

    number("I")
    tensors, values = number("Q"), number("Q")
    for _ in range(values):
        skip_text()
        skip(number("I"))
    for _ in range(tensors):
        skip_text()
        for _ in range(number("I")):
            number("Q")
        number("I")
        number("Q")
    return len(content) - (place + 31) // 32 * 32


if __name__ == "__main__":
    unittest.main()
