#!/usr/bin/env bash
# Compares the engine with the golden.json of checkpoint directories: tests/golden.sh DIR...
set -euo pipefail
cd "$(dirname "$0")/.."
exec build/bin/teq-golden "$@"
