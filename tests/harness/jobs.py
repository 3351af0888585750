"""Job files for the tests, and a tiny model with its texts."""

import json
import pathlib

from harness import models, programs


class Workshop:
    """A tiny checkpoint, a calibration and an evaluation text, and job files that use them."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.model = models.write_checkpoint(self.root / "model")
        self.calibration = self.root / "calibration.txt"
        self.calibration.write_text(models.random_text(64 * 32, seed=2))
        self.evaluation = self.root / "evaluation.txt"
        self.evaluation.write_text(models.random_text(64 * 4, seed=3))
        self._jobs = 0

    def job(self, steps=4, **changes):
        """A job as a dictionary; `changes` replace its top-level fields."""
        self._jobs += 1
        job = {
            "project": "test",
            "model": {"uri": programs.file_uri(self.model)},
            "recipe": {"weights": {"bits": 3, "group_size": 32},
                       "transform": {"teq": {"steps": steps, "batch_size": 2}}},
            "calibration": {"uri": programs.file_uri(self.calibration), "samples": 16,
                            "sequence_length": 64},
            "evaluation": {"uris": [programs.file_uri(self.evaluation)], "sequence_length": 64},
            "output": {"uri": programs.file_uri(self.root / f"output-{self._jobs}")},
        }
        job.update(changes)
        return job

    def write(self, job):
        """A job file; JSON is YAML."""
        path = self.root / f"job-{self._jobs}-{id(job)}.yaml"
        path.write_text(json.dumps(job, indent=1))
        return path

    def file(self, steps=4, **changes):
        """A new job's file and the directory that it publishes to."""
        job = self.job(steps, **changes)
        return self.write(job), pathlib.Path(job["output"]["uri"].removeprefix("file://"))
