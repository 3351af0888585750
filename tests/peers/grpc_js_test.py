"""A gRPC client in JavaScript, and buf, talk to the server."""

import json
import os
import pathlib
import subprocess
import unittest

from harness import programs
from harness.jobs import Workshop

HERE = pathlib.Path(__file__).parent


class GrpcJsTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.workshop = Workshop(self.house.root / "shop")
        self.house.start_server()

    def test_javascript_client_creates_watches_and_reads_error_details(self):
        self.house.start_worker()
        job = self.workshop.job(steps=4)
        spec = {key: value for key, value in job.items() if key != "project"}
        ran = subprocess.run(["node", str(HERE / "grpc_client.cjs"), self.house.address],
                             input=json.dumps(spec), text=True, capture_output=True, timeout=120,
                             check=False)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        seen = json.loads(ran.stdout)
        self.assertEqual(seen["validated"], "")
        self.assertEqual(seen["estimated"]["stages"][0], "STAGE_FETCH")
        self.assertEqual(seen["estimated"]["outputs"], ["FORMAT_GPTQ"])
        self.assertEqual(seen["created"]["state"], "STATE_QUEUED")
        self.assertEqual(seen["created"]["traceparent"],
                         "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        self.assertEqual(seen["got"], seen["created"]["name"])
        self.assertEqual(seen["states"][-1], "STATE_SUCCEEDED")
        self.assertEqual(seen["samples"], [1, 2, 3, 4])
        # The events after the snapshot have no gap, and a resumed stream says only what follows.
        first = seen["sequences"][0]
        self.assertEqual(seen["sequences"], list(range(first, first + len(seen["sequences"]))))
        self.assertEqual(seen["resumed"], seen["sequences"][1:])
        self.assertEqual(seen["not_found"], {"code": 5, "reason": "JOB_NOT_FOUND", "domain": "teqd"})
        self.assertEqual(seen["invalid"]["code"], 3)
        self.assertEqual(seen["invalid"]["reason"], "INVALID_SPEC")
        self.assertTrue(any(field.endswith("recipe.weights.bits")
                            for field in seen["invalid"]["fields"]), seen["invalid"])
        self.assertEqual(seen["health"], ["SERVING"] * 4)

    def test_buf_lists_the_services_by_reflection(self):
        buf = pathlib.Path(os.environ["NODE_PATH"]) / ".bin" / "buf"
        ran = subprocess.run(
            [str(buf), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect",
             "--reflect-protocol", "grpc-v1alpha", "--list-services",
             f"http://{self.house.address}"], text=True, capture_output=True, timeout=60,
            check=False)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        for service in ("teq.v1.JobService", "teq.v1.WorkerService", "teq.v1.ArtifactService",
                        "grpc.health.v1.Health"):
            self.assertIn(service, ran.stdout.splitlines())


if __name__ == "__main__":
    unittest.main()
