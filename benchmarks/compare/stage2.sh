#!/usr/bin/env bash
# Stage 2: the best rivals of stage 1 and ours on SmolLM2-135M: more test text, three calibration draws for ours and
# for the rivals that are best at a width, one for the others. Goes on where it was stopped; parts named after the
# folder run alone.
set -euo pipefail
out="${1:-out/compare}/stage2"
only="${2:-}"
run() { # FOLDER METHODS ALLOCATION REFIT DRAWS KEEP
  [ -z "$only" ] || [[ " $only " == *" $1 "* ]] || return 0
  secateurs compare smollm2 --methods "$2" --keep "$6" --refit "$4" --allocation "$3" \
    --calibration "$SECATEURS_DATA/wikitext2/validation.tokens.txt" --calibration-tokens 24576 \
    --text "$SECATEURS_DATA/wikitext2/test.raw.txt" --tokens 32768 --window 512 --dtype float32 --trials "$5" --out "$out/$1"
}
run uniform secateurs,importance uniform on 3 0.9,0.8,0.6
run uniform-osscar osscar uniform on 3 0.6
run uniform-published osscar uniform off 3 0.9,0.8,0.6
run uniform-published-others flap,wanda-sp,importance uniform off 1 0.9,0.8,0.6
run uniform-others osscar,flap,wanda-sp uniform on 1 0.9,0.8
run uniform-others-0.6 flap,wanda-sp uniform on 1 0.6
run global secateurs global on 3 0.9,0.8,0.6
run global-flap flap global on 3 0.9,0.8
run global-llm-pruner llm-pruner global on 3 0.6
run global-others llm-pruner global on 1 0.9,0.8
run global-published flap global off 3 0.9,0.8
run global-published-0.6 llm-pruner global off 3 0.6
