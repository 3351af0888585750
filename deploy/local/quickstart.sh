#!/usr/bin/env bash
# From a fresh Debian 12 machine to a quantized model: installs, builds, starts a server and a worker,
# submits one job for the demo model, and prints what came out of it.
#
#   deploy/local/quickstart.sh [--skip-build] [--data DIRECTORY]
#
# --skip-build uses the programs that lie in build/bin. Everything that a run makes goes below
# DIRECTORY (default teqd-data/quickstart); each run publishes to a directory of its own.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$root"

data="$root/teqd-data/quickstart"
build=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --skip-build) build=no ;;
    --data)
      mkdir -p "${2:?--data needs a directory}"
      data="$(cd "$2" && pwd)"
      shift
      ;;
    *)
      echo "quickstart.sh: unknown argument \"$1\"; known: --skip-build, --data DIRECTORY" >&2
      exit 2
      ;;
  esac
  shift
done

say() { printf '\n== %s\n' "$*"; }

server_pid=
worker_pid=
stop() {
  local status=$? pid
  trap - EXIT
  for pid in $worker_pid $server_pid; do
    kill "$pid" 2>/dev/null || continue
    wait "$pid" 2>/dev/null || true
  done
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$build" = yes ]; then
  say "packages"
  deploy/local/install.sh build demo
  say "build (the first time takes a while)"
  cmake --preset release -DTEQ_BUILD_TESTS=OFF
  cmake --build --preset release --parallel "$(nproc)"
else
  deploy/local/install.sh demo
fi
bin="$root/build/bin"

say "texts"
deploy/local/demo_text.sh "$data/text"
ls -l "$data/text"

run="$data/runs/$(date -u +%Y%m%dT%H%M%SZ)-$$"
mkdir -p "$run"
cat >"$run/job.yaml" <<YAML
project: demo
model: {uri: "file://$root/tests/fixtures/demo-llama"}
recipe:
  weights: {bits: 3, group_size: 32, symmetric: false}
  preset: BALANCED
  # a third and an eighth of the preset's steps, and the text as it is
  transform: {teq: {steps: 40, end_to_end_steps: 60, redrawn_fraction: 0}}
calibration: {uri: "file://$data/text/kjv_calibration.txt", samples: 96}
evaluation: {uris: ["file://$data/text/kjv_eval.txt"]}
output: {uri: "file://$run/output", formats: [GPTQ]}
YAML

# wait_for_line FILE PATTERN PID: the first line of FILE that matches; fails when PID ends before.
wait_for_line() {
  local file="$1" pattern="$2" pid="$3" deadline=$((SECONDS + 30))
  until grep -m 1 -E "$pattern" "$file"; do
    if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      echo "quickstart.sh: no line \"$pattern\" in $file; it says:" >&2
      cat "$file" >&2
      return 1
    fi
    sleep 0.1
  done
}

say "server and worker"
"$bin/teq-server" --listen 127.0.0.1:0 --http 127.0.0.1:0 --data "$run/server" \
  >"$run/server.log" 2>&1 &
server_pid=$!
listening="$(wait_for_line "$run/server.log" 'listening grpc=[^ ]+ http=[^ ]+' "$server_pid")"
grpc="$(sed -E 's/.*grpc=([^ "]+).*/\1/' <<<"$listening")"
http="$(sed -E 's/.*http=([^ "]+).*/\1/' <<<"$listening")"
"$bin/teq-worker" --server "$grpc" --data "$run/worker" >"$run/worker.log" 2>&1 &
worker_pid=$!
echo "server $grpc (process $server_pid), metrics http://$http/metrics, worker process $worker_pid"
echo "logs in $run"

say "job"
cat "$run/job.yaml"
echo
if ! "$bin/teqctl" --server "$grpc" submit -f "$run/job.yaml" --watch; then
  echo "quickstart.sh: the job did not succeed; the worker's last lines:" >&2
  tail -n 20 "$run/worker.log" >&2
  exit 1
fi

say "result"
jq -r '
  def round3: . * 1000 | round / 1000;
  .perplexity[0] |
  "perplexity, float              \(.full_precision | round3)",
  "perplexity, round to nearest   \(.round_to_nearest | round3)",
  "perplexity, TEQ                \(.quantized | round3)   (delta \(.delta | round3), standard error \(.delta_standard_error | round3))"
' "$run/output/report.json"
jq -r '.artifacts[] | "checkpoint (\(.format))              \(.path)"' "$run/output/report.json"
echo "report                         $run/output/report.html"
