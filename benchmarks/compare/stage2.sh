#!/usr/bin/env bash
# Stage 2: the best rivals of stage 1 and ours on SmolLM2-135M: more test text, three calibration draws. Goes on where it was stopped.
set -euo pipefail
out="${1:-out/compare}/stage2"
run() { # FOLDER METHODS ALLOCATION REFIT
  secateur compare smollm2 --methods "$2" --keep 0.9,0.8,0.6 --refit "$4" --allocation "$3" \
    --calibration "$SECATEUR_DATA/wikitext2/validation.tokens.txt" --calibration-tokens 24576 \
    --text "$SECATEUR_DATA/wikitext2/test.raw.txt" --tokens 32768 --window 512 --dtype float32 --trials 3 --out "$out/$1"
}
run uniform secateur,flap,importance,osscar,wanda-sp uniform on
run global secateur,flap,llm-pruner global on
run uniform-published osscar,flap,importance,wanda-sp uniform off
run global-published flap,llm-pruner global off
