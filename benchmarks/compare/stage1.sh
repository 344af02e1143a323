#!/usr/bin/env bash
# Stage 1: methods that take no gradients, and llm-pruner, on SmolLM2-135M and WikiText-2. Goes on where it was stopped.
set -euo pipefail
out="${1:-out/compare}"
common=(--keep 0.9,0.8,0.6,0.4 --refit both --allocation both --calibration "$SECATEURS_DATA/wikitext2/validation.tokens.txt"
        --calibration-tokens 24576 --text "$SECATEURS_DATA/wikitext2/test.raw.txt" --tokens 8192 --window 512 --dtype bfloat16
        --no-in-turn --ridge 0.1)
methods=osscar,flap,wanda-sp,redundancy,importance,magnitude,minitron,llm-pruner,medoids,clusters,algorithm1,kcm,random
secateurs compare smollm2 --methods random "${common[@]}" --trials 3 --out "$out/random"
secateurs compare smollm2 --methods "$methods" "${common[@]}" --out "$out/stage1"
