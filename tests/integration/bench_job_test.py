"""bench_job says what a training step costs, on one line of JSON."""

import json
import os
import subprocess
import unittest
from pathlib import Path

BENCH_JOB = Path(os.environ["TEQ_BIN"]) / "bench_job"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BENCH_JOB, *arguments], capture_output=True, text=True, timeout=300)


class BenchJobTest(unittest.TestCase):
    def test_a_small_step_has_every_figure_and_its_ratios(self):
        done = run("--batch", "2", "--sequence", "16", "--steps", "20", "--threads", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        (line,) = done.stdout.splitlines()
        figures = json.loads(line)
        for field in ("step_seconds", "matmul_seconds", "step_over_matmul", "cpu_step_over_matmul",
                      "peak_memory_bytes"):
            self.assertGreater(figures[field], 0, field)
        self.assertAlmostEqual(figures["step_over_matmul"],
                               figures["step_seconds"] / figures["matmul_seconds"])
        # Embedding 32000 x 288, six blocks of 4 x 288^2 + 3 x 288 x 768 and two norms, a last norm.
        parameters = 32000 * 288 + 6 * (4 * 288**2 + 3 * 288 * 768 + 2 * 288) + 288
        self.assertEqual(figures["weight_bytes"], 4 * parameters)
        self.assertGreater(figures["peak_memory_bytes"], figures["weight_bytes"])

    def test_an_unknown_shape_is_refused(self):
        done = run("--shape", "13b")
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout, "")
        self.assertIn("13b", done.stderr)


if __name__ == "__main__":
    unittest.main()
