"""boto3 as a child process: calls of its S3 client as JSON lines on stdin, answers on stdout.

A program of its own because boto3 is a package of Debian's Python, which need not be the tests'.
"""

import hashlib
import json
import sys

import boto3
import botocore.config


def answer(client, call, arguments):
    if "Body" in arguments:
        arguments["Body"] = arguments["Body"].encode()
    result = getattr(client, call)(**arguments)
    result.pop("ResponseMetadata", None)
    if "Body" in result:
        content = result.pop("Body").read()
        result = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
                  "text": content.decode() if len(content) < 65536 else ""}
    return result


def main():
    url, access_key, secret_key = sys.argv[1:]
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=botocore.config.Config(s3={"addressing_style": "path"}))
    for line in sys.stdin:
        call, arguments = json.loads(line)
        print(json.dumps(answer(client, call, arguments), default=str), flush=True)


main()
