#!/usr/bin/env bash
# The defaults on text that no setting was chosen by: test.raw.txt after its first 200,000 bytes. Needs SECATEUR_DATA.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
tail -c +200001 "$SECATEUR_DATA/wikitext2/test.raw.txt" | tail -n +2 >"$work/later.txt"
secateur prune smollm2 "$work/pruned" --keep 0.8 --round-to 1 --calibration-tokens 24576 \
  --calibration "$SECATEUR_DATA/wikitext2/validation.tokens.txt" --json >/dev/null
secateur evaluate "$work/pruned" --against smollm2 --text "$work/later.txt" --tokens 16384 --window 512 \
  --json >"$here/heldout.json"
rm -r "$work"
