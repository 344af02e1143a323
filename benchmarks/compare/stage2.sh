#!/usr/bin/env bash
# Stage 2: the best rivals of stage 1 and ours on SmolLM2-135M: more test text, three calibration draws (one for the
# rivals that come out behind). Goes on where it was stopped; parts named after the folder run alone.
set -euo pipefail
out="${1:-out/compare}/stage2"
only="${2:-}"
run() { # FOLDER METHODS ALLOCATION REFIT DRAWS
  [ -z "$only" ] || [[ " $only " == *" $1 "* ]] || return 0
  secateur compare smollm2 --methods "$2" --keep 0.9,0.8,0.6 --refit "$4" --allocation "$3" \
    --calibration "$SECATEUR_DATA/wikitext2/validation.tokens.txt" --calibration-tokens 24576 \
    --text "$SECATEUR_DATA/wikitext2/test.raw.txt" --tokens 32768 --window 512 --dtype float32 --trials "$5" --out "$out/$1"
}
run uniform secateur,importance,osscar uniform on 3
run global secateur,flap,llm-pruner global on 3
run uniform-published osscar uniform off 3
run global-published flap,llm-pruner global off 3
run uniform-others flap,wanda-sp uniform both 1
run uniform-others-published importance uniform off 1
