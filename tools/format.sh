#!/usr/bin/env bash
# Formats the C++ and CUDA sources as .clang-format says. Only clang-format 18.1.8 will do, since every version formats a
# little differently: tools/setup.sh --tests puts it into .deps/venv.
#
#   tools/format.sh [FILES]           formats them in place (all sources without FILES)
#   tools/format.sh --check [FILES]   changes nothing: names what is not formatted and exits with 1; with 77 (a skipped
#                                     test) where this version is not to be had
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,7s/^# \{0,1\}//p' "tools/${0##*/}"; exit; fi

check=0
if [[ ${1:-} == --check ]]; then check=1; shift; fi

readonly version=18.1.8
for tool in .deps/venv/bin/clang-format clang-format; do
  found=$("$tool" --version 2>/dev/null) || continue
  if [[ $found == *" $version"* ]]; then break; fi
done
if [[ ${found:-} != *" $version"* ]]; then
  echo "format.sh: skipped, clang-format $version is not here (${found:-none was found}); tools/setup.sh --tests fetches it"
  if ((check)); then exit 77; else exit 1; fi
fi

files=("$@")
if ((${#files[@]} == 0)); then
  mapfile -t files < <(find core autograd nn rl cuda tools tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
fi
if ((!check)); then exec "$tool" -i "${files[@]}"; fi

# One process a few files: each names the first line that differs in every file that does.
bad=$(printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -n 16 "$tool" --dry-run --ferror-limit=1 2>&1 |
  sed -n 's/^\([^: ]*\):[0-9:]* \(warning\|error\).*/\1/p' | sort -u) || true
if [[ -n $bad ]]; then
  echo "not formatted; this mends them: tools/format.sh" $bad
  exit 1
fi
