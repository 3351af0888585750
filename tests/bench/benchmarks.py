"""Runs bench_job and bench_kernels, and names the figures in what they print."""

import json
import os
import pathlib
import platform
import subprocess

# Of bench_job's figures, those that are compared; less is better. Of bench_kernels', more is.
_OF_JOB = ("step_over_matmul", "cpu_step_over_matmul", "peak_memory_bytes")
_OF_KERNEL = ("share_of_limit", "cpu_share_of_limit")


def run(program, *arguments, environment=None):
    """What `program` prints, read as JSON."""
    done = subprocess.run([str(program), *map(str, arguments)], text=True, capture_output=True,
                          env={**os.environ, **(environment or {})}, check=False)
    if done.returncode != 0 or not done.stdout:  # bench_kernels: no kernel is named so
        raise SystemExit(f"{program}: exit code {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def kernels(document):
    """bench_kernels' figures by kernel, such as Packing/Rows/4."""
    return {kernel["name"].removesuffix("/manual_time").split("/iterations:")[0]:
            {figure: kernel[figure] for figure in _OF_KERNEL} for kernel in document["benchmarks"]}


def figures(job, kernel_document=None):
    """Figures by name, of both programs, that a comparison is about."""
    named = {name: job[name] for name in _OF_JOB}
    if kernel_document:
        named |= {f"{kernel} {figure}": value
                  for kernel, values in kernels(kernel_document).items()
                  for figure, value in values.items()}
    return named


def less_is_better(figure):
    return figure in _OF_JOB


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
