#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that ebb is built with, and only those that are missing. Elsewhere: prints what is
# needed and stops. Quick and silent about the network when nothing is missing.
set -euo pipefail

packages=(build-essential cmake ninja-build pkg-config git
  libjansson-dev libyaml-dev libpng-dev libstb-dev libopenblas-dev libssl-dev libcmocka-dev
  libhdf5-dev # PhyWorld
  libavformat-dev libavcodec-dev libavfilter-dev libswscale-dev libavutil-dev ffmpeg # ffmpeg: clips for tests
  libsentencepiece-dev # prompts
  clang libclang-rt-dev) # the last line: fuzzers

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  if cmake --version >/dev/null 2>&1 && command -v ninja >/dev/null && command -v pkg-config >/dev/null &&
    pkg-config --exists jansson yaml-0.1 libpng openblas libcrypto cmocka; then
    exit 0
  fi
  echo "This is not a Debian system. Please install what these Debian packages hold, then run make again:"
  printf '  %s\n' "${packages[@]}"
  exit 1
fi

# A package counts as there when it, or one that provides it (pkgconf for pkg-config), is installed.
installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}, ${Provides},\n' |
  sed -n 's/^installed //p' | tr -d ' ' | tr ',' '\n' | sed 's/(.*//')
missing=()
for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Not root and no sudo. As root: apt-get install ${missing[*]}"
    exit 1
  fi
  as_root=(sudo)
fi
install_missing() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}
# The package lists may be absent or old: fetched only when a package cannot be installed with what is there.
if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || ! install_missing; then
  "${as_root[@]}" apt-get update
  install_missing
fi
