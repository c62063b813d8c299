#!/usr/bin/env bash
# Sets up, builds with the tests and runs them. Arguments go to ctest: tools/test.sh -R Tokenizer
# PRESET=debug runs the same under AddressSanitizer and UndefinedBehaviorSanitizer. With CI set, a JUnit report is left in
# the build folder.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,4s/^# \{0,1\}//p' "tools/${0##*/}"; exit; fi

preset=${PRESET:-release}
tools/setup.sh --tests
export PATH="$PWD/.deps/venv/bin:$PATH" # a newer cmake, where setup had to bring one

cmake --preset "$preset"
cmake --build --preset "$preset" -j "$(nproc)"

options=(-j "$(nproc)" --no-tests=error --timeout 300)
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
  echo "test: there is no GPU: $(ctest --preset "$preset" -N -L gpu | sed -n 's/^Total Tests: //p') tests that need one are left out"
  options+=(-LE gpu)
fi
if [[ -n ${CI:-} ]]; then options+=(--output-junit junit.xml); fi
# Tests run beside each other, each with a thread a core: threads that wait must not spin on cores that others need.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
ctest --preset "$preset" "${options[@]}" "$@"
