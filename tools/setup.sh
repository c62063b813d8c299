#!/usr/bin/env bash
# Installs what the build needs on Debian 12, Ubuntu 24.04 and newer, and says what it does. Run it as often as you like:
# with everything in place it changes nothing and needs no network.
#
#   tools/setup.sh            compiler, cmake, ninja, libraries, python3 (for the plots)
#   tools/setup.sh --tests    also GoogleTest, and clang-format for the format check in .deps/venv
#   tools/setup.sh --plots    also matplotlib, in .deps/venv: tools/plot.py writes PNG with it (SVG needs nothing)
#   tools/setup.sh --fuzz     also clang and its sanitizers, for the preset `fuzz`
#   tools/setup.sh --check    only looks: exit code 1 and a list when something is missing
#
# Packages come from apt, as root or through sudo. Where the system's cmake is too old, a newer one goes into .deps/venv
# of this tree and nowhere else. Where nvcc is, the headers of cuDNN's C++ frontend (MIT) go into .deps/cudnn-frontend;
# without them training runs on the own attention kernels.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly min_cmake=3.25
readonly venv=.deps/venv
readonly clang_format='clang-format==18.1.8 --hash=sha256:2de122b8aa78ba49e326f974131caab2c79f4ae877c227cd4e3e5d82a98d21e5'
readonly frontend=.deps/cudnn-frontend
readonly frontend_wheel='nvidia-cudnn-frontend==1.32.0 --hash=sha256:c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0'

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

tests=0 fuzz=0 plots=0 check=0
for option in "$@"; do
  case $option in
    --tests) tests=1 ;;
    --fuzz) fuzz=1 ;;
    --plots) plots=1 ;;
    --check) check=1 ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "tools/${0##*/}"; exit 0 ;;
    *) die "unknown option $option (known: --tests --plots --fuzz --check)" ;;
  esac
done

# ---- what is missing
# Programs count wherever they come from; libraries must be packages.
declare -A program=([g++]=g++ [cmake]=cmake [ninja]=ninja-build [pkg-config]=pkg-config [python3]=python3)
libraries=(libyaml-cpp-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libonig-dev libutf8proc-dev libhwy-dev libgmp-dev libseccomp-dev)
if ((tests)); then libraries+=(libgtest-dev); fi
if ((fuzz)); then
  program[clang++-19]=clang-19
  libraries+=(libclang-rt-19-dev libomp-19-dev)
fi

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }
new_enough() { # CMAKE
  local version
  version=$("$1" --version 2>/dev/null | sed -n '1s/[^0-9]*//p') && [[ -n $version ]] &&
    [[ $(printf '%s\n' "$min_cmake" "$version" | sort -V | head -n 1) == "$min_cmake" ]]
}
no_frontend() {
  { command -v nvcc || [[ -x /usr/local/cuda/bin/nvcc ]]; } >/dev/null && [[ ! -e $frontend/include/cudnn_frontend.h ]]
}
no_cmake() { ! new_enough cmake && ! new_enough "$venv/bin/cmake"; }
no_format() { ((tests)) && [[ $("$venv/bin/clang-format" --version 2>/dev/null) != *' 18.1.8'* ]]; }
no_plots() { ((plots)) && ! "$venv/bin/python" -c 'import matplotlib' 2>/dev/null; }

packages=()
for name in "${!program[@]}"; do
  command -v "$name" >/dev/null || packages+=("${program[$name]}")
done
for name in "${libraries[@]}"; do
  installed "$name" || packages+=("$name")
done

if ((check)); then
  if ((${#packages[@]} > 0)); then say "missing packages: ${packages[*]}"; fi
  if no_cmake; then say "missing: cmake >= $min_cmake (where the package is older, a newer one goes into $venv)"; fi
  if no_frontend; then say "missing: the headers of cuDNN's C++ frontend, in $frontend"; fi
  if no_plots; then say "missing: matplotlib (it goes into $venv)"; fi
  if no_format; then say "missing: ${clang_format%% *} (it goes into $venv)"; fi
  if ((${#packages[@]} > 0)) || no_cmake || no_frontend || no_plots || no_format; then exit 1; fi
  say "nothing is missing"
  exit 0
fi

# ---- packages
apt_install() { # PACKAGES...
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@")
  local as_root=()
  command -v apt-get >/dev/null ||
    die "this system has no apt-get; install what these Debian packages hold, then run again: $*"
  if ((EUID != 0)); then
    # sudo may ask for a password only where somebody can type it.
    if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      die "packages are missing, and installing them needs root. Run
  apt-get update && apt-get install -y --no-install-recommends $*"
    fi
    as_root=(sudo)
  fi
  say "installing $*"
  "${as_root[@]}" apt-get update -qq || die "apt-get update failed"
  "${as_root[@]}" "${install[@]}" || die "apt-get could not install: $*"
}
if ((${#packages[@]} > 0)); then apt_install "${packages[@]}"; fi

# ---- cmake, cuDNN's frontend, and what Python tools the options ask for
need_venv() {
  if [[ -x $venv/bin/pip ]]; then return; fi
  # Debian's python3 comes without ensurepip, others' with it.
  python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv ca-certificates
  python3 -m venv "$venv" || die "python3 -m venv $venv failed"
}
if no_cmake; then
  say "installing cmake >= $min_cmake into $venv (the system's is $(cmake --version | sed -n '1s/[^0-9]*//p'))"
  need_venv
  "$venv/bin/pip" install --quiet --disable-pip-version-check "cmake>=$min_cmake,<4" || die "pip could not install cmake"
fi
if no_frontend; then
  say "fetching the headers of cuDNN's C++ frontend into $frontend"
  need_venv
  mkdir -p "$frontend"
  echo "$frontend_wheel" >"$frontend/requirements.txt"
  # Headers alone: the same wheel serves every machine and every version of Python.
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_27_x86_64 --require-hashes -r "$frontend/requirements.txt" -d "$frontend" ||
    say "pip could not fetch $frontend_wheel: going on without, training runs on the own attention kernels"
  python3 - "$frontend" <<'UNPACK'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
for wheel in folder.glob("*.whl"):
    with zipfile.ZipFile(wheel) as z:
        z.extractall(folder, [n for n in z.namelist() if n.startswith("include/")])
    wheel.unlink()
UNPACK
fi
if no_plots; then
  say "installing matplotlib into $venv"
  need_venv
  "$venv/bin/pip" install --quiet --disable-pip-version-check "matplotlib>=3.7,<4" || die "pip could not install matplotlib"
fi
if no_format; then
  say "installing ${clang_format%% *} into $venv"
  need_venv
  echo "$clang_format" >"$venv/clang-format.txt"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    -r "$venv/clang-format.txt" || say "pip could not install ${clang_format%% *}: going on without, the format check is skipped"
fi
if no_frontend; then say "everything else is in place"; else say "everything is in place"; fi
