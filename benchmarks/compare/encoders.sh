#!/usr/bin/env bash
# Encoders: MiniLM as it is and fine-tuned on SST-2, and the small BERT fine-tuned three times on each of four tasks.
# Goes on where it was stopped.
set -euo pipefail
out="${1:-out/compare}"
label_free=secateur,importance,osscar,flap,wanda-sp,kcm,minitron,magnitude,redundancy
all="$label_free,textpruner-self,kprune,llm-pruner,textpruner,mask-tuning"
common=(--refit both --allocation both --calibration-tokens 24576 --data "$SECATEUR_DATA" --dtype float32)

secateur compare minilm --methods "$label_free" --task stsb-embeddings --keep 0.6,0.4 "${common[@]}" --trials 3 \
  --calibration "$SECATEUR_DATA/sst2/train.tsv" --text-column sentence --out "$out/minilm-stsb"

for seed in 0 1 2; do
  for task in sst2 stsb mrpc qnli; do
    model="$out/models/tiny-$task-$seed"
    [ -d "$model" ] || secateur finetune "$SECATEUR_MODELS/bert-tiny-base" "$task" "$model" \
      --data "$SECATEUR_DATA" --freeze-embeddings --seed "$seed"
    secateur compare "$model" --methods "$all" --task "$task" --keep 0.4 "${common[@]}" --trials 1 --out "$out/tiny-$task-$seed"
  done
done

[ -d "$out/models/minilm-sst2" ] || secateur finetune minilm sst2 "$out/models/minilm-sst2" --data "$SECATEUR_DATA" \
  --max-rows 20000 --epochs 1
secateur compare "$out/models/minilm-sst2" --methods "$all" --task sst2 --keep 0.4 "${common[@]}" --trials 2 --out "$out/minilm-sst2"
