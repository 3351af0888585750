#!/usr/bin/env bash
# Installs, builds, and runs the whole test suite: tests/run.sh [--full]
#
# Without --full: fewer repetitions of the fault tests, no sanitizers, no clang-tidy. Steps go on after
# one failed (hence no -e); the summary at the end names what failed, and the exit code tells.
# shellcheck disable=SC2317 # steps are called by name
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit 1

full=no
case "${1:-}" in
  "") ;;
  --full) full=yes ;;
  *)
    echo "run.sh: unknown argument \"$1\"; known: --full" >&2
    exit 2
    ;;
esac
if [ "$full" = yes ]; then
  export TEQ_TEST_FULL=1
fi
jobs="$(nproc)"
tools="$root/.tools"

results=()
failures=0
missing="$(mktemp)" # tests that this machine lacks something for
trap 'rm -f "$missing"' EXIT

# step NAME COMMAND...: runs it, and remembers how it ended.
step() {
  local name="$1" begin=$SECONDS status=0
  shift
  printf '\n== %s\n' "$name"
  "$@" || status=$?
  if [ "$status" -eq 0 ]; then
    results+=("passed  $(printf '%5d' $((SECONDS - begin))) s  $name")
  else
    results+=("FAILED  $(printf '%5d' $((SECONDS - begin))) s  $name (exit code $status)")
    failures=$((failures + 1))
  fi
  return "$status"
}

summary() {
  printf '\n== summary (%s)\n' "$([ "$full" = yes ] && echo full || echo reduced)"
  printf '%s\n' "${results[@]}"
  sed 's/^/NOT RUN          /' "$missing"
  if [ "$failures" -eq 0 ]; then
    echo "all ${#results[@]} steps passed in $SECONDS s"
    exit 0
  fi
  echo "$failures of ${#results[@]} steps failed in $SECONDS s"
  exit 1
}

sources() {
  find proto/spec client server worker tests -name node_modules -prune -o \
    \( -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.c' \) -print0
}

install_packages() {
  deploy/local/install.sh build demo test
}

# The peers that npm has, at the versions of package.json.
install_peers() {
  mkdir -p "$tools" || return
  if cmp -s tests/peers/package.json "$tools/installed.json" && [ -x "$tools/node_modules/.bin/buf" ]; then
    echo "npm packages: all installed"
    return
  fi
  cp tests/peers/package.json "$tools/package.json" &&
    npm install --prefix "$tools" --no-package-lock --no-audit --no-fund --loglevel=error &&
    cp tests/peers/package.json "$tools/installed.json"
}

# build PRESET
build() {
  cmake --preset "$1" -DTEQ_BUILD_TESTS=ON && cmake --build --preset "$1" --parallel "$jobs"
}

check_format() {
  sources | xargs -0 clang-format --dry-run -Werror
}

check_proto() {
  (cd proto && "$tools/node_modules/.bin/buf" lint)
}

check_scripts() {
  find deploy tests .ci -type f \( -name '*.sh' -o -path .ci/run \) -print0 |
    xargs -0 shellcheck
}

# Headers are checked where a source includes them. No clang of Debian's reads LibTorch's headers in
# C++20 with ranges, so what uses them, the engine's rooms and the worker's main program, is left to
# the compiler's warnings.
check_tidy() {
  find proto/spec client server worker -name '*.cc' -print0 |
    grep -zv -E '^worker/(main.cc|engine/(checkpoint|eval|model|pack|pipeline|quant|report|speed|teq|verify)/)' |
    xargs -0 -n 1 -P "$jobs" clang-tidy-19 -p build --quiet --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-gch
}

# test_label PRESET LABEL
test_label() {
  local directory="build-$1"
  if [ "$1" = release ]; then directory=build; fi
  ctest --preset "$1" -L "^$2\$" --parallel "$jobs" | tee "$missing.log"
  local status="${PIPESTATUS[0]}"
  sed -n "s/.* - \(.*\) (Skipped)\$/\1 ($1): this machine lacks what it needs/p" "$missing.log" >>"$missing"
  rm "$missing.log"
  # What programs of GoogleTest skipped, which ctest counts as passed.
  awk -v preset="$1" '
    /^ *[0-9]+\/[0-9]+ Testing: / { name = $3 }
    /^\[  SKIPPED \] [0-9]/ { print name " (" preset "): it skipped" substr($0, 13) }
  ' "$directory/Testing/Temporary/LastTest.log" >>"$missing"
  return "$status"
}

step "packages" install_packages || summary
step "npm packages" install_peers
step "build (release)" build release || summary
step "clang-format" check_format
step "buf lint" check_proto
step "shellcheck" check_scripts
step "unit tests" test_label release unit
step "integration tests" test_label release integration
step "e2e tests" test_label release e2e
step "fault tests" test_label release fault
step "peers" test_label release peers
step "quick start" deploy/local/quickstart.sh --skip-build
if [ "$full" = yes ]; then
  step "clang-tidy" check_tidy
  for preset in asan ubsan; do
    step "build ($preset)" build "$preset" && step "unit tests ($preset)" test_label "$preset" unit
  done
fi
summary
