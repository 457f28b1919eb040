#!/usr/bin/env bash
# Ours and theirs on one machine in one go, taking turns; one table at the end.
#   bench/peers/side_by_side.sh [-b BENCH] [-p PYTHON] [-o FOLDER] [-r ROUNDS] [-t TASKS] [-- COMMON OPTIONS]
# BENCH     the bench program (build/cuda-release/bin/bench, else build/cpu-release/bin/bench)
# PYTHON    one that has torch, diffusers and scikit-learn (python3)
# FOLDER    for the CSV files (build/side_by_side)
# ROUNDS    how often each side has its turn (2)
# TASKS     of "ops step vae probe" (all four)
# COMMON OPTIONS, as --size 64x64 or --size=64x64, go to both sides: all of --arch --dtype --batch --size --frames --text
#           --words --seconds --device to step; --arch --size --frames --seconds --device to vae, which runs in every
#           dtype; --dtype --seconds --device to ops; --device to probe
set -uo pipefail
cd "$(dirname "$0")/../.."

die() {
  echo "side_by_side.sh: $*" >&2
  exit 2
}

bench= python=python3 out=build/side_by_side rounds=2 tasks="ops step vae probe"
while getopts "b:p:o:r:t:h" option; do
  case $option in
  b) bench=$OPTARG ;;
  p) python=$OPTARG ;;
  o) out=$OPTARG ;;
  r) rounds=$OPTARG ;;
  t) tasks=$OPTARG ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
  esac
done
shift $((OPTIND - 1))
for place in build/cuda-release/bin/bench build/cpu-release/bin/bench; do
  if [ -z "$bench" ] && [ -x "$place" ]; then bench=$place; fi
done
[ -x "$bench" ] || die "no bench program ('$bench'): build it, or say where it is with -b"
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "-r: found '$rounds', expected a number of rounds from 1"
[ -n "${tasks// /}" ] || die "-t: no task, expected of ops, step, vae, probe"
for task in $tasks; do
  case $task in
  ops | step | vae | probe) ;;
  *) die "-t: task '$task' is not known: expected of ops, step, vae, probe" ;;
  esac
done

common=() # option, value, option, value, ...
while [ $# -gt 0 ]; do
  case $1 in
  --arch | --dtype | --batch | --size | --frames | --text | --words | --seconds | --device)
    [ $# -ge 2 ] && [[ $2 != --* ]] || die "common options: a value is missing after '$1'"
    common+=("$1" "$2")
    shift 2
    ;;
  --?*=*)
    set -- "${1%%=*}" "${1#*=}" "${@:2}" # two words, to be looked at as such
    ;;
  *) die "common options: found '$1', expected pairs of --arch, --dtype, --batch, --size, --frames, --text, --words, \
--seconds or --device and a value" ;;
  esac
done

# pick OPTION...: those of the common options, with their values.
pick() {
  local i
  for ((i = 0; i < ${#common[@]}; i += 2)); do
    case " $* " in *" ${common[i]} "*) printf '%s\n' "${common[i]}" "${common[i + 1]}" ;; esac
  done
}
mapfile -t for_ops < <(pick --device --dtype --seconds)
mapfile -t for_probe < <(pick --device) # float64 whatever --dtype says
mapfile -t for_vae < <(pick --device --arch --size --frames --seconds)

mkdir -p "$out" || exit 1
own() { printf '%s\n' "$out"/[0-9]*-{ops,step,vae,probe}-{ebb,peer}."$1"; }
mapfile -t old < <(own csv && own log)
rm -f "${old[@]}"
failed=0
# turn NAME COMMAND...: one side's turn; its CSV and its messages added to files, a failure told and not the end.
turn() {
  local name=$1 why
  shift
  echo "$name: $*" >&2
  if ! "$@" >>"$out/$name.csv" 2>>"$out/$name.log"; then
    why=$(tail -n 1 "$out/$name.log")
    case $why in
    *"--vae-dtype bfloat16: "*" computes in float32") echo "$name left out: $why" >&2 ;;
    *)
      echo "$name failed: $why" >&2
      failed=1
      ;;
    esac
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
      for dtype in float32 bfloat16; do
        turn "$round-vae-ebb" "$bench" step --vae --vae-dtype "$dtype" --csv "${for_vae[@]}"
      done
      turn "$round-vae-peer" "$python" bench/peers/vae_encode.py "${for_vae[@]}"
      ;;
    probe)
      turn "$round-probe-ebb" "$bench" probe --csv "${for_probe[@]}"
      turn "$round-probe-peer" "$python" bench/peers/probes.py "${for_probe[@]}"
      ;;
    esac
  done
done
mapfile -t files < <(shopt -s nullglob && own csv)
"$python" bench/peers/together.py "${files[@]}" | tee "$out/table.txt" || failed=1
exit $failed
