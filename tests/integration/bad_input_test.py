"""Every kind of bad input ends with a stable reason, an exit code, and nothing half-published."""

import json
import pathlib
import struct
import unittest

from harness import models, programs
from harness.jobs import Workshop

# How teqctl ends: the job failed in its run, teqctl refused it, the server did.
FAILED, INVALID, REFUSED = 1, 2, 3


class BadInputTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.weights = self.workshop.model / "model.safetensors"
        self.job = self.workshop.job(steps=1)
        self.output = pathlib.Path(self.job["output"]["uri"].removeprefix("file://"))
        self.house.start_server()
        self.house.start_worker()

    def refuse(self, reason, *words, job=None, codes=(FAILED, INVALID, REFUSED)):
        """The job is refused by teqctl or the server, or fails in its run, for `reason`."""
        self.refuse_file(reason, *words, file=self.workshop.write(job or self.job), codes=codes)
        self.assert_nothing_published(self.output)

    def refuse_file(self, reason, *words, file, codes=(FAILED, INVALID, REFUSED)):
        answer = self.house.ctl("submit", "-f", file, "--watch", "-o", "json")
        self.assertIn(answer.code, codes, answer)
        if answer.code == FAILED:
            job = answer.json()
            self.assertEqual(job["state"], "FAILED")
            # Nobody tries again what cannot work.
            self.assertEqual((job["attempt_count"], job["dead_letter"]), (1, False))
            status = job["error"]
        else:
            status = json.loads(answer.err)
        self.assertEqual(programs.error_reason(status), reason, answer)
        for word in words:
            self.assertIn(word, status["message"])

    def rewrite_header(self, change):
        """Changes the JSON header of the weights, data as it was."""
        content = self.weights.read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8:8 + length])
        change(header)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length:])

    # The model's files.

    def test_missing_weights(self):
        self.weights.unlink()
        self.refuse("MODEL_NOT_FOUND", str(self.workshop.model))

    def test_truncated_weights(self):
        self.weights.write_bytes(self.weights.read_bytes()[:-100])
        self.refuse("INVALID_CHECKPOINT", "model.safetensors")

    def test_header_length_of_two_to_the_sixty(self):
        self.weights.write_bytes(struct.pack("<Q", 1 << 60) + self.weights.read_bytes()[8:])
        self.refuse("INVALID_CHECKPOINT", "model.safetensors", str(1 << 60))

    def test_overlapping_offsets(self):
        def overlap(header):
            begin, end = header["model.norm.weight"]["data_offsets"]
            header["model.norm.weight"]["data_offsets"] = [begin - 2, end - 2]

        self.rewrite_header(overlap)
        self.refuse("INVALID_CHECKPOINT", "model.safetensors")

    def test_offsets_beyond_the_file(self):
        def move(header):
            begin, end = header["lm_head.weight"]["data_offsets"]
            header["lm_head.weight"]["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]

        self.rewrite_header(move)
        self.refuse("INVALID_CHECKPOINT", "lm_head.weight")

    def test_shape_that_disagrees_with_the_bytes(self):
        def grow(header):
            header["model.norm.weight"]["shape"] = [65]

        self.rewrite_header(grow)
        self.refuse("INVALID_CHECKPOINT", "model.norm.weight")

    def test_missing_tensor(self):
        tensors = models.read_safetensors(self.weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        self.weights.write_bytes(models.safetensors_bytes(tensors))
        self.refuse("INVALID_CHECKPOINT", "model.layers.1.mlp.up_proj.weight")

    def test_pickled_weights(self):
        self.weights.rename(self.workshop.model / "pytorch_model.bin")
        self.refuse("INVALID_CHECKPOINT", "pytorch_model.bin")

    def test_unknown_architecture(self):
        config = {**models.TINY_CONFIG, "model_type": "abacus", "architectures": ["AbacusForLM"]}
        (self.workshop.model / "config.json").write_text(json.dumps(config))
        self.refuse("UNKNOWN_ARCHITECTURE", "abacus", "llama")

    def test_tokenizer_of_another_vocabulary(self):
        (self.workshop.model / "tokenizer.json").write_text(json.dumps(models.tokenizer(300)))
        self.refuse("VOCABULARY_MISMATCH", "300", "257")

    def test_text_with_an_added_token_that_has_no_embedding(self):
        tokenizer = models.tokenizer()
        tokenizer["added_tokens"].append(
            {**tokenizer["added_tokens"][0], "id": 257, "content": "<image>"})
        (self.workshop.model / "tokenizer.json").write_text(json.dumps(tokenizer))
        with self.workshop.calibration.open("a") as text:
            text.write("\n<image>\n")
        self.refuse("INVALID_TEXT", "calibration.txt", "257")

    def test_weights_that_are_not_finite(self):
        tensors = models.read_safetensors(self.weights)
        tensors["model.layers.0.mlp.up_proj.weight"].values[7] = float("inf")
        self.weights.write_bytes(models.safetensors_bytes(tensors))
        self.refuse("MODEL_NOT_FINITE")

    # No text has that token: nothing that is measured would meet it.
    def test_embedding_of_an_unused_token_that_is_not_finite(self):
        tensors = models.read_safetensors(self.weights)
        tensors["model.embed_tokens.weight"].values[-1] = float("nan")
        self.weights.write_bytes(models.safetensors_bytes(tensors))
        self.refuse("NOT_REPRESENTABLE", "model.embed_tokens.weight")

    def test_loss_that_diverges_names_the_step(self):
        self.job["recipe"]["transform"]["teq"] = {
            "steps": 300, "batch_size": 2, "learning_rate": 1.0, "objective": "LM_LOSS",
            "init": "ONES"}
        self.refuse("LOSS_NOT_FINITE", "step ", "learning_rate")

    # The texts.

    def test_calibration_text_too_short_for_one_window(self):
        self.workshop.calibration.write_text("short")
        self.refuse("TEXT_TOO_SHORT", "calibration.txt", "64")

    def test_missing_text(self):
        self.workshop.evaluation.unlink()
        self.refuse("TEXT_NOT_FOUND", "evaluation.txt")

    # The job.

    def test_group_size_that_does_not_divide_names_layers_and_remedy(self):
        self.job["recipe"]["weights"]["group_size"] = 48
        self.refuse("GROUP_SIZE_MISMATCH", "48", "model.layers.0.self_attn.q_proj",
                    "-1 for whole rows", codes=[REFUSED])

    def test_zero_points_that_do_not_fill_words(self):
        config = {**models.TINY_CONFIG, "num_key_value_heads": 1}
        model = models.write_checkpoint(self.house.root / "narrow", config)
        self.job["model"]["uri"] = programs.file_uri(model)
        self.refuse("SHAPE_NOT_PACKABLE", "GPTQ", "model.layers.0.self_attn.k_proj", "skip: true",
                    codes=[REFUSED])

    def test_unknown_field_is_named_with_its_line(self):
        file = self.house.root / "job.yaml"
        file.write_text("project: test\nmodel: {uri: file:///m}\nrecipe:\n  weigths: {bits: 4}\n")
        self.refuse_file("INVALID_JOB_FILE", f"{file}:4", "weigths", "weights", file=file,
                         codes=[INVALID])

    def test_broken_yaml(self):
        file = self.house.root / "job.yaml"
        file.write_text("model: {uri: [\n")
        self.refuse_file("INVALID_JOB_FILE", str(file), file=file, codes=[INVALID])

    def test_five_bits(self):
        self.job["recipe"]["weights"]["bits"] = 5
        self.refuse("INVALID_SPEC", "recipe.weights.bits", "5", "2, 3, 4 or 8", codes=[INVALID])

    def test_uri_of_another_scheme(self):
        self.job["model"]["uri"] = "gopher://models/llama"
        self.refuse("INVALID_SPEC", "model.uri", "gopher", codes=[INVALID])

    def test_uri_that_leaves_its_directory(self):
        self.job["calibration"]["uri"] = f"file://{self.workshop.root}/shop/../calibration.txt"
        self.refuse("INVALID_SPEC", "calibration.uri", "..", codes=[INVALID])

    def test_output_of_another_job(self):
        self.house.wait_for_state(self.house.submit(self.workshop.write(self.job))["name"],
                                  "SUCCEEDED")
        before = {path: path.read_bytes() for path in self.output.rglob("*") if path.is_file()}
        self.job["priority"] = 3
        self.refuse_file("OUTPUT_IN_USE", str(self.output), file=self.workshop.write(self.job))
        after = {path: path.read_bytes() for path in self.output.rglob("*") if path.is_file()}
        self.assertEqual(before, after)

    def test_override_that_matches_no_layer(self):
        self.job["recipe"]["overrides"] = [{"match": "model.layers.7.mlp.up_proj", "skip": True}]
        self.refuse("INVALID_SPEC", "model.layers.7.mlp.up_proj", codes=[REFUSED])

    def test_output_that_cannot_be_made(self):
        blocker = self.house.root / "file"
        blocker.write_text("in the way")
        self.job["output"]["uri"] = programs.file_uri(blocker / "output")
        self.refuse_file("OUTPUT_IN_USE", str(blocker), "is not a directory",
                         file=self.workshop.write(self.job), codes=[FAILED])
        self.assertEqual(blocker.read_text(), "in the way")


class AllowedUrisTest(programs.HouseTest):
    def test_path_outside_the_list_is_refused(self):
        workshop = Workshop(self.house.root / "shop")
        with self.house.config.open("a") as config:
            config.write(f"uri_prefixes: ['file://{workshop.root}/']\n")
        self.house.start_server()
        inside, _ = workshop.file()
        self.assertEqual(self.house.submit(inside)["state"], "QUEUED")
        job = workshop.job()
        job["output"]["uri"] = programs.file_uri(self.house.root / "elsewhere")
        # A link does not help.
        (workshop.root / "link").symlink_to(self.house.root)
        for directory in (self.house.root, workshop.root / "link"):
            job["output"]["uri"] = programs.file_uri(directory / "elsewhere")
            answer = self.house.ctl("submit", "-f", workshop.write(job), "-o", "json")
            self.assertEqual(answer.code, REFUSED, answer)
            self.assertEqual(programs.error_reason(json.loads(answer.err)), "URI_NOT_ALLOWED")


if __name__ == "__main__":
    unittest.main()
