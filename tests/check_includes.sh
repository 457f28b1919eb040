#!/usr/bin/env bash
# The tree's rules, by reading the source:
#   who includes whom     kernels <- loaders <- engine, loaders <- probe; engine and probe never see each other;
#                         main.c, cli/, bench/ and tests/ see everything
#   kernels' own affair   kernels/backend.h, kernels/ops_check.h, kernels/cpu/ and kernels/cuda/ are included inside kernels/ (and tests/) only
#   paths from the root   "kernels/ops.h", not "ops.h"
#   who ends the program  main.c alone calls exit
#   who asks the system   kernels/context.c alone calls getenv
# Usage: check_includes.sh [ROOT]. Exit 0: all hold; 1: each breach on a line of its own.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"

breaches=0
breach() {
  printf '%s\n' "$*"
  breaches=$((breaches + 1))
}

sources_in() {
  local folder
  for folder in "$@"; do
    if [ -d "$folder" ]; then
      find "$folder" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cc' \)
    fi
  done | sort
}

# Comments and string literals blanked, lines kept.
code_of() {
  awk '
    {
      out = ""; n = length($0); i = 1
      while (i <= n) {
        two = substr($0, i, 2); one = substr($0, i, 1)
        if (inside) { if (two == "*/") { inside = 0; i += 2 } else i++; continue }
        if (two == "/*") { inside = 1; i += 2; out = out " "; continue }
        if (two == "//") break
        if (one == "\"" || one == "\047") {
          i++
          while (i <= n && substr($0, i, 1) != one) i += substr($0, i, 1) == "\\" ? 2 : 1
          i++; out = out one one; continue
        }
        out = out one; i++
      }
      print out
    }' "$1"
}

# check_folder FOLDER ALLOWED...: quoted includes of FOLDER begin with one of ALLOWED or are generated headers.
check_folder() {
  local folder=$1 file line target root
  shift
  while IFS= read -r file; do
    while IFS=: read -r line target; do
      case $target in
      ebb_version.h | ebb_build.h) continue ;;
      */*) root=${target%%/*} ;;
      *)
        breach "$file:$line: \"$target\" is not a path from the root of the tree"
        continue
        ;;
      esac
      case $target in
      kernels/backend.h | kernels/ops_check.h | kernels/cpu/* | kernels/cuda/*)
        case $folder in
        kernels | tests) ;;
        *) breach "$file:$line: $target is private to kernels/" ;;
        esac
        ;;
      esac
      case " $* " in
      *" $root "*) ;;
      *) breach "$file:$line: $folder/ may not include $target (allowed: $*)" ;;
      esac
    done < <(sed -n -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"([^"]+)".*/\1/;t found;b
      :found
      =;p' "$file" | paste -d: - -)
    # <kernels/...> would hide from the rule above.
    while IFS=: read -r line target; do
      breach "$file:$line: own headers are included with quotes: $target"
    done < <(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*<(kernels|loaders|engine|probe|cli|bench|tests)/' "$file" || true)
  done < <(sources_in "$folder")
}

# check_call FUNCTION ONLY_IN FOLDER...: FUNCTION is called in no file of the folders but ONLY_IN.
check_call() {
  local pattern=$1 only=$2 file line text
  shift 2
  while IFS= read -r file; do
    if [ "$file" = "$only" ]; then
      continue
    fi
    while IFS=: read -r line text; do
      breach "$file:$line: only $only may do this:$text"
    done < <(code_of "$file" | grep -nE "(^|[^A-Za-z0-9_])($pattern)[[:space:]]*\\(" || true)
  done < <(
    sources_in "$@"
    if [ -f main.c ]; then echo main.c; fi
  )
}

check_folder kernels kernels
check_folder loaders kernels loaders
check_folder engine kernels loaders engine
check_folder probe kernels loaders probe
check_folder cli kernels loaders engine probe cli
check_folder bench kernels loaders engine probe cli bench tests
check_folder tests kernels loaders engine probe cli bench tests
check_call 'exit|_exit|_Exit|quick_exit' main.c kernels loaders engine probe cli bench
check_call 'getenv|secure_getenv' kernels/context.c kernels loaders engine probe cli bench

if [ "$breaches" -gt 0 ]; then
  printf '%d breaches of the rules at the head of tests/check_includes.sh\n' "$breaches"
  exit 1
fi
