#!/usr/bin/env bash
# Stage 2: the best three rivals of stage 1 and ours on SmolLM2-135M: more test text, three calibration draws. Goes on where it was stopped.
set -euo pipefail
out="${1:-out/compare}"
secateur compare smollm2 --methods flap,llm-pruner,wanda-sp,importance,redundancy --keep 0.9,0.8,0.6 --refit on --allocation both \
  --calibration "$SECATEUR_DATA/wikitext2/validation.tokens.txt" --calibration-tokens 24576 \
  --text "$SECATEUR_DATA/wikitext2/test.raw.txt" --tokens 32768 --window 512 --dtype bfloat16 --no-in-turn --ridge 0.1 --trials 3 --out "$out/stage2"
