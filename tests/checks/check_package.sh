#!/usr/bin/env bash
# What people do with an installed tree: the program finds its embedded model there, and a program outside of the tree is
# built with find_package(mantissa).   tests/checks/check_package.sh BUILD
set -euo pipefail
build=$(realpath "${1:?usage: check_package.sh BUILD}")
tree=$(realpath "$(dirname "$0")/../..")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cmake --install "$build" --prefix "$place/mantissa" >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
export CUDA_VISIBLE_DEVICES=
cd "$place"
prompt=51+29+60=
mantissa/bin/mantissa generate --model builtin:arithmetic --prompt $prompt --temperature 0 --precision fp32 >text 2>log ||
  { cat log; exit 1; }
cmake -G Ninja -S "$tree/tests/example" -B example -DCMAKE_PREFIX_PATH="$place/mantissa" -DCMAKE_BUILD_TYPE=Release >log 2>&1 &&
  cmake --build example >>log 2>&1 || { cat log; exit 1; }
example/example "$place/mantissa/share/mantissa/builtin/arithmetic" $prompt >other
cmp text other
cat text
