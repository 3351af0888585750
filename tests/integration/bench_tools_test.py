"""What compares two builds' benchmarks, and what writes the README's table of figures."""

import json
import pathlib
import subprocess
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench"

# Prints the JSON that lies beside it, and writes down who ran.
STAND_IN = """#!/bin/sh
directory=$(dirname "$0")
echo "$(basename "$directory") $(basename "$0")" >> "$directory/../order"
cat "$directory/$(basename "$0").json"
"""


def job(cpu_ratio, wall_ratio=1.5, memory=300_000_000):
    return {"threads": 1, "instruction_set": "AVX512", "libtorch": "1.13",
            "matrix_products": "OpenBLAS 0.3.21, Haswell",
            "step_over_matmul": wall_ratio, "cpu_step_over_matmul": cpu_ratio,
            "peak_memory_bytes": memory}


def kernels(**shares):
    return {"context": {}, "benchmarks": [
        {"name": name, "share_of_limit": share, "cpu_share_of_limit": share}
        for name, share in shares.items()]}


class ToolTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def run_tool(self, name, *arguments):
        return subprocess.run([str(BENCH / name), *map(str, arguments)], capture_output=True,
                              text=True, timeout=60, check=False)

    def write(self, name, document):
        file = self.root / name
        file.write_text(json.dumps(document))
        return file


class CompareTest(ToolTest):
    def rows(self, pairs):
        """The rows of a comparison of pairs (A's figures, B's), by figure."""
        out = self.root / "out.json"
        done = self.run_tool("compare", "--json", out, "--read", self.write(
            "pairs.json", {"pairs": [{"a": a, "b": b} for a, b in pairs]}))
        self.assertEqual(done.returncode, 0, done.stderr)
        return {row["figure"]: row for row in json.loads(out.read_text())["rows"]}, done.stdout

    def test_a_ratio_is_the_median_of_the_pairs_own(self):
        # The machine slowed down for the third pair, which the ratio does not mind.
        pairs = [({"step_over_matmul": a}, {"step_over_matmul": b})
                 for a, b in ((1, 0.5), (1, 0.8), (4, 3.6))]
        rows, text = self.rows(pairs)
        row = rows["step_over_matmul"]
        self.assertAlmostEqual(row["ratio"], 0.8)
        self.assertAlmostEqual(row["least"], 0.5)
        self.assertAlmostEqual(row["most"], 0.9)
        self.assertEqual((row["a"], row["b"]), (1, 0.8))
        # Three of three on one side: 2 / 2^3.
        self.assertAlmostEqual(row["chance"], 0.25)
        self.assertEqual(row["finding"], "no finding")
        self.assertIn("0.500 to 0.900", text)

    def test_better_is_less_of_a_steps_ratio_and_more_of_a_kernels_share(self):
        a = {"cpu_step_over_matmul": 1.4, "Evaluation share_of_limit": 0.6}
        b = {"cpu_step_over_matmul": 1.2, "Evaluation share_of_limit": 0.5}
        rows, _ = self.rows([(a, b)] * 6)
        self.assertAlmostEqual(rows["cpu_step_over_matmul"]["chance"], 2 / 2**6)
        self.assertEqual(rows["cpu_step_over_matmul"]["finding"], "B is better")
        self.assertEqual(rows["Evaluation share_of_limit"]["finding"], "B is worse")

    def test_chance_is_that_of_the_sign_test_and_equal_pairs_do_not_count(self):
        pairs = [({"step_over_matmul": 1}, {"step_over_matmul": b})
                 for b in (0.9,) * 8 + (1.1,) + (1,) * 3]
        rows, _ = self.rows(pairs)
        # 1 of 9 or fewer, or as many on the other side: 2 * (1 + 9) / 2^9.
        self.assertAlmostEqual(rows["step_over_matmul"]["chance"], 20 / 512)
        rows, _ = self.rows([({"step_over_matmul": 1}, {"step_over_matmul": 1})] * 8)
        self.assertEqual(rows["step_over_matmul"]["chance"], 1)

    def test_builds_take_turns_and_each_goes_first_as_often(self):
        for build, ratio in (("a", 1.5), ("b", 1.2)):
            (self.root / build).mkdir()
            for program, document in (("bench_job", job(ratio)),
                                      ("bench_kernels", kernels(**{"Packing/Rows/4/manual_time": 1}))):
                (self.root / build / program).write_text(STAND_IN)
                (self.root / build / program).chmod(0o755)
                self.write(f"{build}/{program}.json", document)
        done = self.run_tool("compare", self.root / "a", self.root / "b", "--pairs", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.root / "order").read_text().split(),
                         [word for build in "abba"
                          for word in (build, "bench_job", build, "bench_kernels")])
        self.assertRegex(done.stdout, r"(?m)^cpu_step_over_matmul +1.5 +1.2 +0.800 ")
        self.assertRegex(done.stdout, r"(?m)^Packing/Rows/4 share_of_limit +1 +1 +1.000 ")


class ReadmeTableTest(ToolTest):
    README = "# Title\n\nBefore.\n\n<!-- figures -->\nold\n<!-- /figures -->\n\nAfter.\n"

    def setUp(self):
        super().setUp()
        self.readme = self.root / "README.md"
        self.record = self.write("record.json", {"machine": "Measured on a machine.", "runs": {
            "bench_job --threads 1": [job(1.31), job(1.19), job(1.25)],
            "scrape/bench.py": [{"busy": {"series": 1781}, "busy_by_idle_median": 1.84}]}})

    def renew(self):
        return self.run_tool("readme_table", "--readme", self.readme, "--read", self.record)

    def test_what_stands_between_the_markers_is_replaced_and_nothing_else(self):
        self.readme.write_text(self.README)
        for _ in range(2):
            done = self.renew()
            self.assertEqual(done.returncode, 0, done.stderr)
            before, table, after = self.readme.read_text().replace(
                "<!-- /figures -->", "<!-- figures -->").split("<!-- figures -->")
            self.assertEqual((before, after), ("# Title\n\nBefore.\n\n", "\n\nAfter.\n"))
            self.assertEqual(table.strip("\n").splitlines(), [
                "Measured on a machine.", "", "| figure | measured | limit | where it comes from |",
                "|---|---|---|---|",
                "| a training step, in its matrix products (1 thread, CPU time) | 1.25 (1.19 to 1.31) "
                "| at most 1.4 | `bench_job --threads 1`: `cpu_step_over_matmul` |",
                "| series of a server with 10,000 ended and 200 running jobs | 1,781 | below 2,000 "
                "| `scrape/bench.py`: `busy.series` |",
                "| its scrape, in scrapes of an idle server | 1.84 | at most 5 "
                "| `scrape/bench.py`: `busy_by_idle_median` |"])

    def test_a_file_without_the_markers_is_left_alone(self):
        for text in ("# Title\n", "<!-- /figures -->\n<!-- figures -->\n"):
            self.readme.write_text(text)
            done = self.renew()
            self.assertEqual(done.returncode, 1)
            self.assertIn("<!-- figures -->", done.stderr)
            self.assertEqual(self.readme.read_text(), text)

    def test_the_readme_has_a_place_for_the_table(self):
        self.readme.write_text((BENCH.parents[1] / "README.md").read_text())
        self.assertEqual(self.renew().returncode, 0)


if __name__ == "__main__":
    unittest.main()
