#!/usr/bin/env bash
# What can only be tested or measured where there is a GPU, each part into a file of its own and the ends of all on the
# screen. Goes on after a part that fails; its exit code says whether one did.
# Usage: gpu_check.sh [-b FOLDER] [-o FOLDER] [-p PYTHON] [PART...]
#   -b   with the programs (build/cuda-release/bin)
#   -o   for what they say (build/gpu_check)
#   -p   a Python that has torch, diffusers and scikit-learn, for the parts velocity, encode and peers (python3)
# Parts, all when none is named:
#   tests      operators, fixtures, bytes of a run, probes; jobs, contexts, taps, forwards and weights in this build
#   sanitizer  compute-sanitizer's four tools on the operators' small cases and on a fixture of each kind
#   demo       the demo's experiment on the CPU and on the GPU: the two tables
#   velocity   a Wan 2.1 1.3B with random weights against diffusers, both dtypes: 6,400 tokens against float64, 32,760
#              against diffusers in float32
#   encode     its VAE against diffusers
#   step       one velocity and one encoding, by stage
#   ops        every operator at full size
#   load, probe, invert    the other subcommands of bench
#   peers      ours and theirs in turns
set -uo pipefail
cd "$(dirname "$0")/.."

bin=build/cuda-release/bin out=build/gpu_check python=python3
while getopts "b:o:p:h" option; do
  case $option in
  b) bin=$OPTARG ;;
  o) out=$OPTARG ;;
  p) python=$OPTARG ;;
  *)
    sed -n '2,20s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
  esac
done
shift $((OPTIND - 1))
parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=(tests sanitizer demo velocity encode step ops load probe invert peers)
mkdir -p "$out"
export EBB_BIN=$bin

failed=0
# say NAME LINES COMMAND...: its output into OUT/NAME.txt, the last LINES of it on the screen.
say() {
  local name=$1 lines=$2 start=$SECONDS code
  shift 2
  "$@" >"$out/$name.txt" 2>&1
  code=$?
  printf '==== %s: %s, %d s: %s\n' "$name" "$([ $code -eq 0 ] && echo ok || echo "FAILED ($code)")" $((SECONDS - start)) "$*"
  tail -n "$lines" "$out/$name.txt"
  [ $code -eq 0 ] || failed=1
}

tests() {
  local t
  for t in test_ops_cuda test_run_cuda test_fixtures test_solve_cuda test_presets test_job test_context test_tap test_wan \
    test_weights test_maps test_edit test_t5 test_reconstruct test_intervene test_fidelity_run; do
    say "$t" 12 "$bin/$t"
  done
}

# Groups of operators side by side: the tools slow the host down more than the GPU. racecheck does without convolutions,
# whose cuDNN kernels do not end under it; the encoder's fixture has our kernels around them.
sanitizer() {
  local tool group groups=(attention norm,gate linear,matmul,gram,spd,values pool conv3d sample
    patch,axpby,activate,add_table,channel_affine,clamp,convert,timestep,add_diagonal)
  for tool in memcheck racecheck initcheck synccheck; do
    for group in "${groups[@]}"; do
      case $tool-$group in racecheck-conv3d | racecheck-sample) continue ;; esac
      timeout 500 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/test_ops_cuda" small "$group" \
        >"$out/$tool-${group%%,*}.txt" 2>&1 &
    done
    for group in velocity-a-t1 encode-a-f1; do
      timeout 500 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/ebb" eval "${group%%-*}" --device cuda \
        --model tests/fixtures/models/wan-a --in "tests/fixtures/$group/in.safetensors" \
        --out "$out/$tool-$group.safetensors" >"$out/$tool-$group.txt" 2>&1 &
    done
  done
  wait
  for tool in memcheck racecheck initcheck synccheck; do
    for group in "$out/$tool"-*.txt; do
      say "read-$(basename "$group" .txt)" 1 grep -E '^=+ (ERROR|RACECHECK) SUMMARY: 0 ' "$group"
    done
  done
}

demo() {
  local device
  [ -d "$out/data" ] || "$bin/ebb" synth "$out/data" --quadruplets 16 >"$out/synth.txt" 2>&1
  for device in cuda cpu; do
    rm -rf "$out/run-$device"
    say "demo-$device" 30 "$bin/ebb" run configs/tiny-demo.yaml --set "data.path=$out/data" --out "$out/run-$device" \
      --device "$device"
  done
}

velocity() {
  local check=("$python" bench/peers/velocity_check.py --ebb "$bin/ebb" --arch wan2.1-1.3b --text 512 --work "$out/weights")
  say velocity-6400 8 "${check[@]}" --shapes 25x32x32 --reference float64
  say velocity-32760 8 "${check[@]}" --shapes 21x60x104 --reference float32
}
encode() {
  say encode 10 "$python" bench/peers/encode_check.py --ebb "$bin/ebb" --arch wan2.1-1.3b --work "$out/weights"
}

step() {
  say step 24 "$bin/bench" step --arch wan2.1-1.3b --dtype bfloat16
  say step-long 24 "$bin/bench" step --arch wan2.1-1.3b --dtype bfloat16 --batch 1 --frames 81 --size 480x832
  say vae-bfloat16 24 "$bin/bench" step --vae --arch wan2.1-1.3b --vae-dtype bfloat16
  say vae-float32 24 "$bin/bench" step --vae --arch wan2.1-1.3b
}
ops() {
  say ops-bfloat16 80 "$bin/bench" ops --huge --dtype bfloat16
  say ops-float32 80 "$bin/bench" ops --huge
}
load() {
  say make-model 2 "$python" bench/peers/make_model.py --arch wan2.1-1.3b --dtype bfloat16 --device cuda --out "$out/model"
  say load 12 "$bin/bench" load --model "$out/model" --dtype bfloat16
}
probe() {
  say probe 24 "$bin/bench" probe --solver newton,ridge,referee,released
}
invert() {
  say invert-speed 16 "$bin/bench" invert --part speed --arch wan2.1-1.3b --steps 100 --captures 11 --dtype bfloat16
  say invert-errors 24 "$bin/bench" invert --part errors --arch tiny --device cuda --steps 20,50,100
}
peers() {
  say peers 60 bench/peers/side_by_side.sh -b "$bin/bench" -p "$python" -o "$out/side_by_side" -- --arch wan2.1-1.3b \
    --dtype bfloat16
}

for part in "${parts[@]}"; do
  case $part in
  tests | sanitizer | demo | velocity | encode | step | ops | load | probe | invert | peers) "$part" ;;
  *)
    echo "gpu_check.sh: no part '$part': see gpu_check.sh -h" >&2
    exit 2
    ;;
  esac
done
exit $failed
