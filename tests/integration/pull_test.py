"""Published checkpoints by teqctl: listed, shown, pulled, verified; in a directory."""

import hashlib
import json
import unittest

from harness import programs
from harness.jobs import Workshop


class PullTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.house.start_server()
        self.house.start_worker()
        file, self.output = Workshop(self.house.root / "shop").file(steps=1)
        self.name = self.house.submit(file)["name"]

    def test_output_in_a_directory_is_listed_pulled_and_verified(self):
        refused = self.house.ctl("pull", self.name, self.house.root / "early", "-o", "json")
        self.assertEqual(refused.code, 3, refused)
        self.assertEqual(programs.error_reason(json.loads(refused.err)), "JOB_NOT_SUCCEEDED")
        job = self.house.wait_for_state(self.name, "SUCCEEDED")

        listed = self.house.ctl("artifacts", "--project", "test", "-o", "json").json()
        self.assertEqual([a["name"] for a in listed], [self.name + "/artifacts/gptq"])
        manifest = self.house.ctl("manifest", self.name)
        self.assertEqual(hashlib.sha256(manifest.out.encode()).hexdigest(), job["manifest_sha256"])

        pulled = self.house.root / "pulled"
        answer = self.house.ctl("pull", self.name, pulled)
        self.assertEqual(answer.code, 0, answer)
        self.assert_published(pulled)  # the same files, and nothing else
        for what in (self.name, programs.file_uri(pulled), programs.file_uri(self.output)):
            answer = self.house.ctl("verify", what, "-o", "json")
            self.assertEqual((answer.code, answer.json()["problems"]), (0, []), answer)
        self.assertEqual(self.house.ctl("verify", self.name, "--via-server").code, 0)

        # A directory has no URLs.
        answer = self.house.ctl("pull", self.name, self.house.root / "urls", "--via-server",
                                "-o", "json")
        self.assertEqual(programs.error_reason(json.loads(answer.err)), "NOT_PRESIGNABLE")

        weights = next(self.output.rglob("model.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        for words in ([self.name], [self.name, "--via-server"], [programs.file_uri(self.output)]):
            answer = self.house.ctl("verify", *words, "-o", "json")
            self.assertEqual(answer.code, 1, answer)
            self.assertEqual([p["path"] for p in answer.json()["problems"]],
                             [str(weights.relative_to(self.output))])
        # What was pulled is still good.
        self.assertEqual(self.house.ctl("verify", programs.file_uri(pulled)).code, 0)


if __name__ == "__main__":
    unittest.main()
