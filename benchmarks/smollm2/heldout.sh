#!/usr/bin/env bash
# Redundancy at alpha 2 over 256 rows and r = 0.25, and plain importance, on text that no setting was chosen
# by: test.raw.txt after its first 200,000 bytes.
# Needs SECATEURS_DATA.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
tail -c +200001 "$SECATEURS_DATA/wikitext2/test.raw.txt" | tail -n +2 >"$work/later.txt"
for choice in information no-information; do
  secateurs prune smollm2 "$work/$choice" --method redundancy --no-in-turn --ridge 0.1 --keep 0.8 --round-to 1 \
    "--$choice" --alpha 2 --kernel-rows 256 --kernel-width 0.25 \
    --calibration-tokens 24576 \
    --calibration "$SECATEURS_DATA/wikitext2/validation.tokens.txt" --json >/dev/null
  secateurs evaluate "$work/$choice" --against smollm2 --text "$work/later.txt" --tokens 16384 --window 512 \
    --json >"$work/$choice.json"
done
python3 - "$work" >"$here/heldout.json" <<'EOF'
import json, pathlib, sys

names = {"redundancy, alpha 2": "information", "importance": "no-information"}
scores = {row: json.loads(pathlib.Path(sys.argv[1], f"{file}.json").read_text())["score"] for row, file in names.items()}
print(json.dumps(scores, indent=2))
EOF
rm -r "$work"
