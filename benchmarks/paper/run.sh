#!/usr/bin/env bash
# Every table and figure, from raw data: fine-tunes first, goes on where it was stopped. Results are copied here.
#   SECATEURS_DATA=... SECATEURS_MODELS=... benchmarks/paper/run.sh
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-out/paper}"

run() {
  secateurs paper "$@" --freeze-embeddings --data "$SECATEURS_DATA" --model "$SECATEURS_MODELS/bert-tiny-base" --out "$out"
  cp "$out/$1".* "$here/"
}

run table1
run table2
for figure in fig2 fig3 fig4 fig5 fig6 fig7 sensitivity; do
  run "$figure" --quick
done
