#!/usr/bin/env bash
# SmolLM2-135M at 80 % width on WikiText-2, by the command line alone. Needs SECATEURS_DATA.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="$(mktemp -d)"
secateurs prune smollm2 "$out/pruned" --method redundancy --no-in-turn --ridge 0.1 --keep 0.8 --round-to 1 --calibration-tokens 24576 \
  --calibration "$SECATEURS_DATA/wikitext2/validation.tokens.txt" --json >"$out/prune.json"
secateurs evaluate "$out/pruned" --against smollm2 --text "$SECATEURS_DATA/wikitext2/test.raw.txt" \
  --tokens 16384 --window 512 --json >"$out/evaluate.json"
sed "s#$out/##" "$out/prune.json" >"$here/prune.json"
cp "$out/evaluate.json" "$here/evaluate.json"
rm -r "$out"
