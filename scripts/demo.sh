#!/usr/bin/env bash
# The demo: a physics data set drawn on the spot, inverted through the small trained model, probed. Leaves everything in
# build/demo; run again it starts the run afresh and keeps the data. Usage: demo.sh [EBB]
set -euo pipefail
cd "$(dirname "$0")/.."

ebb=${1:-build/cpu-release/bin/ebb}
data=build/demo/data
run=build/demo/run
quadruplets=${EBB_DEMO_QUADRUPLETS:-16} # of each category

mkdir -p build/demo
made="quadruplets $quadruplets, $("$ebb" --version)"
if [ ! -d "$data" ] || [ "$(cat "$data.made" 2>/dev/null)" != "$made" ]; then
  rm -rf "$data" "$data.made"
  "$ebb" synth "$data" --quadruplets "$quadruplets"
  echo "$made" >"$data.made"
fi
rm -rf "$run"
start=$SECONDS
"$ebb" run configs/tiny-demo.yaml --set "data.path=$data" --out "$run"

echo
echo "demo: $((SECONDS - start)) seconds; everything is in $run"
find "$run" -name '*.png' | sort | sed 's/^/picture: /'
