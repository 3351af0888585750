"""Stores by hand: store_tool, and boto3, as child processes that take commands one by one."""

import json
import os
import pathlib
import subprocess
import unittest

from harness.programs import BIN, run

ENVIRONMENT = {
    "AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_CONFIG_FILE": "/nonexistent", "no_proxy": "*"}


class Child:
    """A program that answers lines of JSON by lines of JSON."""

    def __init__(self, command, environment=None):
        self._process = subprocess.Popen(
            [str(word) for word in command], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, **(environment or {})})

    def ask(self, question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended with {self._process.wait()} at {question}")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class Boto(Child):
    """boto3's client of a store."""

    def __init__(self, url, access_key, secret_key):
        client = pathlib.Path(__file__).with_name("boto_client.py")
        super().__init__(["/usr/bin/python3", client, url, access_key, secret_key])

    def __call__(self, call, **arguments):
        return self.ask([call, arguments])


class StoreError(Exception):
    def __init__(self, error):
        super().__init__(f"{error['reason']}: {error['message']}")
        self.reason, self.message = error["reason"], error["message"]


class Store(Child):
    """A store of one URI, open until `close`."""

    def __init__(self, uri, environment):
        super().__init__([BIN / "store_tool", "batch", uri], {**ENVIRONMENT, **environment})

    def __call__(self, *words):
        """The answer of one command; StoreError where it fails."""
        answer = self.ask(list(map(str, words)))
        if isinstance(answer, dict) and "error" in answer:
            raise StoreError(answer["error"])
        return answer


class StoreTest(unittest.TestCase):
    def open(self, uri, environment):
        store = Store(uri, environment)
        self.addCleanup(store.close)
        return store

    def assert_fails(self, reason, message, store, *words):
        """The command fails with this reason, and its message has these words; the error."""
        with self.assertRaises(StoreError) as caught:
            store(*words)
        self.assertEqual(caught.exception.reason, reason, caught.exception.message)
        self.assertIn(message, caught.exception.message)
        return caught.exception

    def assert_cannot_open(self, reason, message, uri, environment):
        """The store cannot be opened, or its first command fails."""
        answer = run("store_tool", "head", uri, "k", environment={**ENVIRONMENT, **environment})
        self.assertEqual(answer.code, 1, answer)
        error = json.loads(answer.err)
        self.assertEqual(error["reason"], reason, error["message"])
        self.assertIn(message, error["message"])


def pattern(path, size):
    """A file of `size` bytes of which no two MiB are alike."""
    path = pathlib.Path(path)
    block = bytes(range(256)) * 4095 + b"teqd" * 4
    with open(path, "wb") as file:
        written = 0
        while written < size:
            part = (written.to_bytes(8, "big") + block)[:size - written]
            file.write(part)
            written += len(part)
    return path
