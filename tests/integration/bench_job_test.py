"""The benchmarks say in JSON what they measured, and how far it is from its limit."""

import json
import os
import subprocess
import unittest
from pathlib import Path

BIN = Path(os.environ["TEQ_BIN"])


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / program, *arguments], capture_output=True, text=True, timeout=300,
                          env=os.environ | environment)


class BenchJobTest(unittest.TestCase):
    def test_a_small_step_has_every_figure_and_its_ratios(self):
        done = run("bench_job", "--batch", "2", "--sequence", "16", "--steps", "20", "--threads", "1")
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

    def test_the_library_of_matrix_products_is_told_as_the_environment_chose_it(self):
        for processor in ("Nehalem", "Sandybridge"):
            done = run("bench_job", "--batch", "1", "--sequence", "8", "--steps", "20", "--threads",
                       "1", OPENBLAS_CORETYPE=processor)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(json.loads(done.stdout)["matrix_products"],
                             rf"^OpenBLAS \d+\.\d+\.\d+, {processor}$")

    def test_an_unknown_shape_is_refused(self):
        done = run("bench_job", "--shape", "13b")
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout, "")
        self.assertIn("13b", done.stderr)


    def test_what_no_machine_can_hold_is_refused_before_it_is_tried(self):
        done = run("bench_job", "--shape", "7b", "--batch", "100000", "--sequence", "4096")
        self.assertEqual(done.returncode, 1, done)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"--shape 7b with --batch 100000 .* takes about \d+ MiB")


class BenchKernelsTest(unittest.TestCase):
    def test_a_kernel_has_its_share_of_a_copys_bandwidth(self):
        done = run("bench_kernels", "--benchmark_filter=Packing/Columns/4", "--benchmark_min_time=0.01")
        self.assertEqual(done.returncode, 0, done.stderr)
        (kernel,) = json.loads(done.stdout)["benchmarks"]
        self.assertGreater(kernel["bytes_per_second"], 0)
        self.assertGreater(kernel["share_of_limit"], 0)


if __name__ == "__main__":
    unittest.main()
