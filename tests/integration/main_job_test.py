"""One job from its file to its published checkpoint."""

import hashlib
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import unittest
from xml.etree import ElementTree

from harness import models, programs, reference
from harness.jobs import Workshop


class MainJobTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()
        self.house.start_worker()

    def test_submitted_job_is_trained_verified_published_and_reported(self):
        file, output = self.workshop.file(steps=6)
        watched = self.house.ctl("submit", "-f", file, "--watch")
        self.assertEqual(watched.code, 0, watched)
        # Stages shorter than a heartbeat may go unseen.
        for words in ("QUEUED", "RUNNING", "SUCCEEDED", "QUANTIZED", str(output / "gptq")):
            self.assertIn(words, watched.out)

        (job,) = self.house.ctl("list", "--project", "test", "-o", "json").json()
        self.assertEqual(self.house.job(job["name"])["uid"], job["uid"])
        job = self.house.job(job["name"])
        self.assertEqual(job["state"], "SUCCEEDED")
        self.assertEqual((job["attempt_count"], job["preemption_count"], job["fence"]), (1, 0, 1))
        self.assertEqual(job["latest_metrics"]["step"], 6)

        manifest = self.assert_published(output)
        content = (output / "manifest.json").read_bytes()
        self.assertEqual(job["manifest_sha256"], hashlib.sha256(content).hexdigest())
        self.assertEqual(manifest["job"], job["name"])
        self.assertEqual(manifest["spec_digest"], job["spec_digest"])
        report = json.loads((output / "report.json").read_text())
        self.assertEqual(report, job["report"])
        self.assertEqual(report, manifest["report"])
        self.assertIn("report.html", {file["path"] for file in manifest["files"]})
        page = "".join(ElementTree.parse(output / "report.html").getroot().itertext())
        self.assertIn(f"{report['perplexity'][0]['quantized']:.4f}", page)
        self.assertIn(report["artifacts"][0]["sha256"], page)
        (artifact,) = report["artifacts"]
        self.assertEqual((artifact["format"], artifact["path"]), ("GPTQ", str(output / "gptq")))
        self.assertEqual(artifact["bytes"],
                         sum(f.stat().st_size for f in (output / "gptq").iterdir()))
        self.assertEqual([point["step"] for point in report["training"]["loss_curve"]],
                         list(range(1, 7)))
        self.assertLessEqual({"FETCH", "BASELINE_EVAL", "CALIBRATE", "TRANSFORM", "ROUND", "PACK",
                              "VERIFY"}, set(report["timing_seconds"]))
        self.assert_gapless(job["name"])

    def test_answers_come_as_table_json_and_yaml(self):
        file, _ = self.workshop.file()
        watched = self.house.ctl("submit", "-f", file, "--watch", "-o", "json")
        self.assertEqual(watched.code, 0, watched)
        name = watched.json()["name"]
        self.assertEqual(watched.json()["state"], "SUCCEEDED")
        self.assertIn("\nstate: SUCCEEDED\n", self.house.ctl("get", name, "-o", "yaml").out)
        table = self.house.ctl("list", "--project", "test").out
        self.assertEqual(len(table.splitlines()), 2, table)
        self.assertIn("SUCCEEDED", table)
        report = self.house.ctl("report", name, "-o", "json").json()
        shown = self.house.ctl("report", name).out
        self.assertIn(f"{report['perplexity'][0]['quantized']:.4g}"[:4], shown)
        self.assertIn("quantized:", self.house.ctl("report", name, "-o", "yaml").out)

    def test_metrics_and_health_are_served(self):
        file, _ = self.workshop.file()
        job = self.house.submit(file)
        self.house.wait_for_state(job["name"], "SUCCEEDED")
        self.assertEqual(self.house.fetch("/healthz")[0], 200)
        self.assertEqual(self.house.fetch("/readyz")[0], 200)
        self.assertEqual(self.house.fetch("/nowhere")[0], 404)
        code, metrics = self.house.fetch("/metrics")
        self.assertEqual(code, 200)
        report = self.house.job(job["name"])["report"]["perplexity"][0]

        def value(name, *labels):
            lines = [line for line in metrics.splitlines()
                     if line.startswith(name + "{") and all(part in line for part in labels)]
            self.assertEqual(len(lines), 1, (name, labels, metrics))
            return float(lines[0].rsplit(" ", 1)[1])

        self.assertGreater(value("teq_training_loss", job["name"]), 0)
        self.assertEqual(value("teq_training_step", job["name"]), 4)
        for phase in ("full_precision", "round_to_nearest", "quantized"):
            self.assertAlmostEqual(value("teq_perplexity", job["name"], f'phase="{phase}"'),
                                   report[phase], delta=1e-3 * report[phase])
        self.assertAlmostEqual(value("teq_perplexity_delta", job["name"]), report["delta"],
                               delta=1e-3 * report["full_precision"])
        checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, text=True,
                                 capture_output=True, check=False)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""), checked.stdout)

    def test_gate_fails_the_job_keeps_its_report_and_publishes_nothing(self):
        job = self.workshop.job(steps=1)
        job["evaluation"]["max_perplexity_delta"] = -1e9
        watched = self.house.ctl("submit", "-f", self.workshop.write(job), "--watch", "-o", "json")
        self.assertEqual(watched.code, 1, watched)
        ended = watched.json()
        self.assertEqual((ended["state"], self.house.reason(ended)), ("FAILED", "PERPLEXITY_GATE"))
        self.assertGreater(ended["report"]["perplexity"][0]["quantized"], 0)
        self.assertEqual(ended["attempt_count"], 1)
        self.assert_nothing_published(job["output"]["uri"].removeprefix("file://"))

    def test_worker_without_server_writes_the_same_weights(self):
        file, output = self.workshop.file(steps=3)
        self.house.wait_for_state(self.house.submit(file)["name"], "SUCCEEDED")
        served = (output / "gptq" / "model.safetensors").read_bytes()
        alone = self.workshop.job(steps=3)
        report = self.house.root / "report.json"
        answer = programs.run("teq-worker", "--threads", "1", "run", "--job",
                              self.workshop.write(alone), "--report", report,
                              directory=self.house.root)
        self.assertEqual(answer.code, 0, answer)
        output = pathlib.Path(alone["output"]["uri"].removeprefix("file://"))
        self.assertEqual((output / "gptq" / "model.safetensors").read_bytes(), served)
        self.assert_published(output)
        self.assertEqual(json.loads(report.read_text()),
                         json.loads((output / "report.json").read_text()))


class IndependentCheckTest(unittest.TestCase):
    """The engine's figures against a Llama and a reader of packed files written in Python."""

    def setUp(self):
        self.house = programs.House()
        self.addCleanup(self.house.close)
        self.workshop = Workshop(self.house.root / "shop")
        self.ids = reference.byte_ids(self.workshop.evaluation.read_text())

    def _run(self, job):
        answer = programs.run("teq-worker", "--threads", "1", "run", "--job",
                              self.workshop.write(job), directory=self.house.root)
        self.assertEqual(answer.code, 0, answer)
        output = pathlib.Path(job["output"]["uri"].removeprefix("file://"))
        return output, json.loads((output / "report.json").read_text())

    def _perplexity(self, tensors):
        return reference.perplexity(reference.Llama(models.TINY_CONFIG, tensors), self.ids, 64)

    def test_perplexities_are_those_of_the_published_bytes_at_every_width(self):
        plain = models.read_safetensors(self.workshop.model / "model.safetensors")
        full = self._perplexity(plain)
        for bits in (2, 3, 4, 8):
            with self.subTest(bits=bits):
                job = self.workshop.job(steps=2)
                job["recipe"]["weights"] = {"bits": bits, "group_size": 32}
                output, report = self._run(job)
                (found,) = report["perplexity"]
                self.assertAlmostEqual(found["full_precision"], full, delta=1e-3 * full)
                packed = self._perplexity(reference.dequantize(output / "gptq"))
                self.assertAlmostEqual(found["quantized"], packed, delta=1e-3 * packed)
                rounded = self._perplexity(reference.round_to_nearest(plain, bits, 32))
                self.assertAlmostEqual(found["round_to_nearest"], rounded, delta=1e-3 * rounded)

    def _choices(self, tensors, questions):
        """Which of each question's two choices, 0 or 1, is the likelier by its length."""
        model = reference.Llama(models.TINY_CONFIG, tensors)

        def score(context, choice):
            losses = model.losses(reference.byte_ids(f"{context} {choice}"))
            return -sum(losses[-len(choice) - 1:]) / len(choice)

        return [int(score(context, second) > score(context, first))
                for context, first, second in questions]

    def test_accuracy_on_a_task_is_that_of_the_published_bytes(self):
        words = models.random_text(120, seed=4).split()
        questions = list(zip(words[::3], words[1::3], words[2::3]))
        chosen = self._choices(models.read_safetensors(self.workshop.model / "model.safetensors"),
                               questions)
        float_right = [1, 1, 1, 1, 0, 0]
        answers = [choice if right else 1 - choice
                   for choice, right in zip(chosen, float_right, strict=True)]
        task = self.house.root / "task.jsonl"
        task.write_text("".join(
            json.dumps({"context": context, "choices": [" " + first, " " + second],
                        "answer": answer}) + "\n"
            for (context, first, second), answer in zip(questions, answers)))
        job = self.workshop.job(steps=2)
        job["recipe"]["weights"]["bits"] = 2
        job["evaluation"]["tasks"] = [programs.file_uri(task)]
        output, report = self._run(job)
        chosen = self._choices(reference.dequantize(output / "gptq"), questions)
        right = [int(choice == answer) for choice, answer in zip(chosen, answers)]
        (found,) = report["tasks"]
        self.assertEqual((found["task"], found["examples"]), (programs.file_uri(task), 6))
        self.assertAlmostEqual(found["full_precision_accuracy"], 4 / 6)
        self.assertAlmostEqual(found["quantized_accuracy"], sum(right) / 6)
        # Of the mean of six, and of that of their differences.
        self.assertAlmostEqual(found["standard_error"], statistics.stdev(right) / math.sqrt(6))
        self.assertEqual(report["inputs"]["task_uris"], [programs.file_uri(task)])
        self.assertEqual(report["inputs"]["task_sha256"],
                         [hashlib.sha256(task.read_bytes()).hexdigest()])
        differences = [one - other for one, other in zip(right, float_right)]
        self.assertAlmostEqual(found["difference_standard_error"],
                               statistics.stdev(differences) / math.sqrt(6))

    def test_every_composition_is_measured_on_the_published_bytes(self):
        few = {"steps": 3, "batch_size": 2, "objective": "BLOCK_MSE", "end_to_end_steps": 2}
        for name, recipe in {
                "fast": {"preset": "FAST"},
                "balanced": {"preset": "BALANCED", "transform": {"teq": few}},
                "awq": {"transform": {"awq": {}}},
                "clipping alone": {"clipping": {"search": {}}},
                "learned, scales fixed": {"rounding": {"learned": {"optimizer": "SIGN_SGD"}},
                                          "clipping": {"learned": {}}, "schedule": few},
                "teq, then gptq": {"transform": {"teq": few | {"block_inputs": "FLOAT"}},
                                   "rounding": {"gptq": {"group_range": "BEFORE_UPDATE"}}},
        }.items():
            with self.subTest(name):
                job = self.workshop.job(recipe=recipe | {"weights": {"bits": 3, "group_size": 32}})
                output, report = self._run(job)
                packed = self._perplexity(reference.dequantize(output / "gptq"))
                self.assertAlmostEqual(report["perplexity"][0]["quantized"], packed,
                                       delta=1e-3 * packed)
                trains = "teq" in recipe.get("transform", {}) or "schedule" in recipe
                self.assertEqual("training" in report, trains)
                clips = "clipping" in report["layers"][0]
                self.assertEqual(clips, "preset" in recipe or "clipping" in recipe)

    def test_training_multiplies_bfloat16_only_where_the_processor_does(self):
        few = {"steps": 3, "batch_size": 2, "objective": "BLOCK_MSE", "end_to_end_steps": 2,
               "compute_type": "BFLOAT16"}
        job = self.workshop.job(recipe={"transform": {"teq": few},
                                        "weights": {"bits": 3, "group_size": 32}})
        output, report = self._run(job)
        is_fast = "avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text()
        self.assertEqual(report["training"]["compute_type"], "BFLOAT16" if is_fast else "FLOAT32")
        named = [note for note in report["notes"] if "compute_type" in note]
        self.assertEqual(len(named), 0 if is_fast else 1, named)
        # What is measured and published is float32's in any case.
        packed = self._perplexity(reference.dequantize(output / "gptq"))
        self.assertAlmostEqual(report["perplexity"][0]["quantized"], packed, delta=1e-3 * packed)

    def test_overrides_and_symmetry_reach_the_published_bytes(self):
        job = self.workshop.job(steps=2)
        job["recipe"]["weights"] = {"bits": 4, "group_size": -1, "symmetric": True}
        job["recipe"]["overrides"] = [
            {"match": "re:.*down_proj", "weights": {"bits": 8, "group_size": 32}},
            {"match": "model.layers.1.self_attn.o_proj", "skip": True},
        ]
        output, report = self._run(job)
        stored = models.read_safetensors(output / "gptq" / "model.safetensors")
        self.assertIn("model.layers.1.self_attn.o_proj.weight", stored)
        self.assertEqual(stored["model.layers.0.mlp.down_proj.qweight"].shape, [32, 64])
        self.assertEqual(stored["model.layers.0.mlp.down_proj.scales"].shape, [4, 64])
        # Symmetric: every zero point is 8, stored as 7.
        self.assertEqual(set(stored["model.layers.0.mlp.up_proj.qzeros"].values), {0x77777777})
        packed = self._perplexity(reference.dequantize(output / "gptq"))
        self.assertAlmostEqual(report["perplexity"][0]["quantized"], packed, delta=1e-3 * packed)

    def test_target_bits_are_the_average_of_the_published_bytes(self):
        output, report = self._run(self.workshop.job(recipe={
            "weights": {"target_bits": 3.5, "group_size": 32},
            "rounding": {"gptq": {}},
            "overrides": [{"match": "re:.*v_proj", "weights": {"bits": 8}}],
        }))
        stored = models.read_safetensors(output / "gptq" / "model.safetensors")
        layers = {layer["name"]: layer for layer in report["layers"]}
        weights, total = 0, 0
        for name, (rows, columns) in models.linear_shapes(models.TINY_CONFIG).items():
            packed = 32 * len(stored[name + ".qweight"].values)
            self.assertEqual(packed, layers[name]["bits"] * rows * columns, name)
            if name.endswith("v_proj"):
                self.assertEqual(layers[name]["bits"], 8)
                self.assertFalse(layers[name].get("sensitivity"))
            else:
                weights, total = weights + rows * columns, total + packed
        self.assertLessEqual(total / weights, 3.5)
        self.assertGreater(total / weights, 3.25)
        # Those that servers load as one matrix.
        for one, other in (("q_proj", "k_proj"), ("gate_proj", "up_proj")):
            for name in layers:
                if name.endswith(one):
                    self.assertEqual(layers[name]["bits"],
                                     layers[name.replace(one, other)]["bits"], name)
        self.assertIn(f"target_bits 3.5: average {total / weights:.3f} over 12 layers: ",
                      "".join(report["notes"]))

        measured = {name: {width["bits"]: width.get("error", 0) for width in layer["sensitivity"]}
                    for name, layer in layers.items() if layer.get("sensitivity")}
        self.assertEqual({tuple(errors) for errors in measured.values()}, {(2, 3, 4, 8)})
        self.assertLess(sum(errors[layers[name]["bits"]] for name, errors in measured.items()),
                        sum(errors[3] for errors in measured.values()))
        packed = self._perplexity(reference.dequantize(output / "gptq"))
        self.assertAlmostEqual(report["perplexity"][0]["quantized"], packed, delta=1e-3 * packed)

    def test_trainable_fraction_is_that_of_the_shapes(self):
        _, report = self._run(self.workshop.job(steps=2))
        # A block: 64 before q, k, v; 64 before gate, up; 128 from up to down; 2 heads of 16 from
        # v to o. Parameters: embedding and head 257 x 64, a block 36,992, the last norm 64.
        scales = 2 * (64 + 64 + 128 + 32)
        parameters = 2 * 257 * 64 + 2 * 36992 + 64
        training = report["training"]
        self.assertEqual(training["trainable_parameters"],
                         {"scales": scales, "clipping": 0, "rounding": 0, "step_sizes": 0})
        self.assertAlmostEqual(training["trainable_fraction"], scales / parameters, places=9)

    def test_sharded_checkpoint_gives_the_same_weights(self):
        whole, _ = self._run(self.workshop.job(steps=2))
        tensors = models.read_safetensors(self.workshop.model / "model.safetensors")
        (self.workshop.model / "model.safetensors").unlink()
        shards, weight_map = {"a.safetensors": {}, "b.safetensors": {}}, {}
        for number, (name, tensor) in enumerate(tensors.items()):
            shard = "ab"[number % 2] + ".safetensors"
            shards[shard][name] = tensor
            weight_map[name] = shard
        for shard, part in shards.items():
            (self.workshop.model / shard).write_bytes(models.safetensors_bytes(part))
        (self.workshop.model / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map}))
        sharded, _ = self._run(self.workshop.job(steps=2))
        self.assertEqual((whole / "gptq" / "model.safetensors").read_bytes(),
                         (sharded / "gptq" / "model.safetensors").read_bytes())


if __name__ == "__main__":
    unittest.main()
