#!/usr/bin/env bash
# Encoders: MiniLM as it is and fine-tuned on two tasks, and the small BERT fine-tuned twice on each of four.
# Goes on where it was stopped; with a second argument only that part runs.
set -euo pipefail
out="${1:-out/compare}"
only="${2:-}"
made="out/models" # fine-tuned models and joined data, not results
label_free=secateurs,importance,osscar,flap,wanda-sp,kcm,minitron,magnitude,redundancy
all="$label_free,textpruner-self,textpruner-self-published,kprune,llm-pruner,textpruner,mask-tuning"
common=(--refit both --calibration-tokens 24576 --dtype float32)
sentences=(--task stsb-embeddings --calibration "$SECATEURS_DATA/sst2/train.tsv" --text-column sentence)

minilm-pairs() { # validation pairs, on which constants were tuned, and all others, as none of their labels is used
  mkdir -p "$made/pairs/stsb"
  cat "$SECATEURS_DATA/stsb/train.tsv" <(tail -n +2 "$SECATEURS_DATA/stsb/test.tsv") > "$made/pairs/stsb/validation.tsv"
  pairs() { # DATA FOLDER METHODS REFIT DRAWS, then options
    secateurs compare minilm --methods "$3" --keep 0.6,0.4 "${common[@]}" --refit "$4" "${sentences[@]}" --trials "$5" \
      --data "$1" --out "$out/$2" "${@:6}"
  }
  pairs "$SECATEURS_DATA" minilm-stsb secateurs,osscar both 3
  pairs "$SECATEURS_DATA" minilm-stsb-others importance,flap,wanda-sp,kcm both 3
  pairs "$made/pairs" minilm-pairs secateurs,osscar on 3
  pairs "$made/pairs" minilm-pairs-others kcm on 3
  pairs "$made/pairs" minilm-pairs-published osscar,kcm off 3
  pairs "$SECATEURS_DATA" minilm-stsb-weighted secateurs on 3 --token-weights # not the default where texts' means are given
  pairs "$made/pairs" minilm-pairs-weighted secateurs on 3 --token-weights
  pairs "$made/pairs" minilm-pairs-seed-3 secateurs,osscar on 3 --seed 3 # three more draws
}

tiny() {
  for seed in 0 1; do
    for task in sst2 stsb mrpc qnli; do
      model="$made/tiny-$task-$seed"
      [ -d "$model" ] || secateurs finetune "$SECATEURS_MODELS/bert-tiny-base" "$task" "$model" \
        --data "$SECATEURS_DATA" --freeze-embeddings --seed "$seed"
      secateurs compare "$model" --methods "$all" --task "$task" --keep 0.4 "${common[@]}" --allocation both --trials 1 \
        --data "$SECATEURS_DATA" --out "$out/tiny-$task-$seed"
    done
  done
}

minilm-tasks() {
  for task in sst2 stsb; do
    model="$made/minilm-$task"
    [ -d "$model" ] || secateurs finetune minilm "$task" "$model" --data "$SECATEURS_DATA" \
      --max-rows 20000 --epochs "$([ "$task" = sst2 ] && echo 1 || echo 4)"
    tuned() { # FOLDER METHODS ALLOCATION REFIT DRAWS
      secateurs compare "$model" --methods "$2" --task "$task" --keep 0.4 "${common[@]}" --refit "$4" --allocation "$3" \
        --trials "$5" --data "$SECATEURS_DATA" --out "$out/$1-$task-0"
    }
    tuned minilm-tuned secateurs,importance,osscar,flap,wanda-sp,kcm both both 1
    tuned minilm-draws-global secateurs,flap global on 3
    tuned minilm-draws-uniform secateurs,osscar uniform on 3
    tuned minilm-gradients textpruner-self,textpruner,mask-tuning global on 1
    tuned minilm-gradients-own llm-pruner global off 1
    tuned minilm-gradients-kprune kprune uniform off 1
  done
}

for part in tiny minilm-tasks minilm-pairs; do
  [ -n "$only" ] && [ "$only" != "$part" ] || "$part"
done
