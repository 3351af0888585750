"""Upload and download of one large file, teqd's store against boto3, in one run on one machine.

    TEQ_BIN=build/bin TEQ_FIXTURES=tests/fixtures PYTHONPATH=tests python3 tests/bench/objects/bench.py

Both send parts of 16 MiB, four at once, to Ceph's object gateway on loopback, turn by turn. Prints JSON:
MB/s of each round, their medians, our largest memory, and ours by theirs.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "e2e" / "s3"))

from harness import radosgw  # noqa: E402
from harness.programs import BIN  # noqa: E402
from tool import ENVIRONMENT, Boto, pattern  # noqa: E402

BOTO = """
import sys, time, boto3, botocore.config, boto3.s3.transfer
url, access_key, secret_key, verb, key, path = sys.argv[1:]
client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=access_key,
                      aws_secret_access_key=secret_key)
config = boto3.s3.transfer.TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20,
                                          max_concurrency=4)
begin = time.monotonic()
if verb == "put":
    client.upload_file(path, "bucket", key, Config=config)
else:
    client.download_file("bucket", key, path, Config=config)
print(time.monotonic() - begin)
"""


def ours(gateway, verb, key, path):
    """(seconds, largest memory in KiB) of one transfer by store_tool."""
    done = subprocess.run(
        [str(BIN / "store_tool"), verb, "s3://bucket", key, str(path)], text=True, check=True,
        stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT, **gateway.environment})
    answer = json.loads(done.stdout)
    return answer["seconds"], answer["max_rss_kib"]


def theirs(gateway, verb, key, path):
    """Seconds of one transfer by boto3."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", BOTO, gateway.url, radosgw.ACCESS_KEY, radosgw.SECRET_KEY, verb,
         key, str(path)], text=True, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rates = {name: [] for name in ("put", "get", "boto3 put", "boto3 get")}
    memory = 0
    gateway = radosgw.Radosgw()
    try:
        with tempfile.TemporaryDirectory(prefix="teq-bench-") as directory:
            source = pattern(pathlib.Path(directory) / "source", options.mib << 20)
            target = pathlib.Path(directory) / "target"
            boto = Boto(gateway.url, radosgw.ACCESS_KEY, radosgw.SECRET_KEY)
            boto("create_bucket", Bucket="bucket")
            boto.close()
            for number in range(options.rounds):
                for verb, path in (("put", source), ("get", target)):
                    seconds, kib = ours(gateway, verb, f"ours-{number}", path)
                    memory = max(memory, kib)
                    rates[verb].append(options.mib * 1.048576 / seconds)
                    seconds = theirs(gateway, verb, f"theirs-{number}", path)
                    rates["boto3 " + verb].append(options.mib * 1.048576 / seconds)
    finally:
        gateway.close()
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(json.dumps({
        "mib": options.mib, "mb_per_second": rates, "median": median,
        "ours_by_boto3": {verb: median[verb] / median["boto3 " + verb] for verb in ("put", "get")},
        "largest_memory_mib": memory / 1024}, indent=2))


if __name__ == "__main__":
    main()
