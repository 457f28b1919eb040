#!/usr/bin/env bash
# Ours and theirs on one machine in one go, taking turns; one table at the end.
#   bench/peers/side_by_side.sh [-b BENCH] [-p PYTHON] [-o FOLDER] [-r ROUNDS] [-t TASKS] [-- COMMON OPTIONS]
# BENCH     the bench program (build/cuda-release/bin/bench, else build/cpu-release/bin/bench)
# PYTHON    one that has torch, diffusers and scikit-learn (python3)
# FOLDER    for the CSV files (build/side_by_side)
# ROUNDS    how often each side has its turn (2)
# TASKS     of "ops step vae probe" (all four)
# COMMON OPTIONS go to both sides of step and vae: --arch --dtype --batch --size --frames --text --words
#           --seconds --device; ops and probe get --device, --dtype and --seconds of them
set -uo pipefail
cd "$(dirname "$0")/../.."

bench= python=python3 out=build/side_by_side rounds=2 tasks="ops step vae probe"
while getopts "b:p:o:r:t:h" option; do
  case $option in
  b) bench=$OPTARG ;;
  p) python=$OPTARG ;;
  o) out=$OPTARG ;;
  r) rounds=$OPTARG ;;
  t) tasks=$OPTARG ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
  esac
done
shift $((OPTIND - 1))
for place in build/cuda-release/bin/bench build/cpu-release/bin/bench; do
  if [ -z "$bench" ] && [ -x "$place" ]; then bench=$place; fi
done
if [ ! -x "$bench" ]; then
  echo "side_by_side.sh: no bench program ('$bench'): build it, or say where it is with -b" >&2
  exit 2
fi

# pick OPTION...: those of the common options, with their values. probe computes in float64 whatever --dtype says.
common=("$@")
pick() {
  local i
  for ((i = 0; i + 1 < ${#common[@]}; i += 2)); do
    case " $* " in *" ${common[i]} "*) printf '%s\n' "${common[i]}" "${common[i + 1]}" ;; esac
  done
}
mapfile -t for_ops < <(pick --device --dtype --seconds)
mapfile -t for_probe < <(pick --device)
mapfile -t for_vae < <(pick --device --arch --size --frames --seconds)

mkdir -p "$out"
rm -f "$out"/*.csv
failed=0
# turn NAME COMMAND...: one side's turn; its CSV and its messages in files, a failure told and not the end.
turn() {
  local name=$1
  shift
  echo "$name: $*" >&2
  if ! "$@" >"$out/$name.csv" 2>"$out/$name.log"; then
    echo "$name failed: $(tail -n 1 "$out/$name.log")" >&2
    failed=1
  fi
}

for ((round = 1; round <= rounds; round++)); do
  for task in $tasks; do
    case $task in
    ops)
      turn "$round-ops-ebb" "$bench" ops --huge --csv "${for_ops[@]}"
      turn "$round-ops-peer" "$python" bench/peers/ops.py "${for_ops[@]}"
      ;;
    step)
      turn "$round-step-ebb" "$bench" step --csv "${common[@]}"
      turn "$round-step-peer" "$python" bench/peers/transformer_step.py "${common[@]}"
      ;;
    vae)
      turn "$round-vae-ebb" "$bench" step --vae --csv "${for_vae[@]}"
      turn "$round-vae-peer" "$python" bench/peers/vae_encode.py "${for_vae[@]}"
      ;;
    probe)
      turn "$round-probe-ebb" "$bench" probe --csv "${for_probe[@]}"
      turn "$round-probe-peer" "$python" bench/peers/probes.py "${for_probe[@]}"
      ;;
    *)
      echo "side_by_side.sh: task '$task' is not known: expected ops, step, vae, probe" >&2
      exit 2
      ;;
    esac
  done
done
"$python" bench/peers/together.py "$out"/*.csv | tee "$out/table.txt"
exit $failed
