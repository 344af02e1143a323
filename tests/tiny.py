"""Seeded tiny random models of every family: for structure, never for quality."""

from __future__ import annotations

from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from secateurs.calibration import add_decoder_input
from secateurs.encoding import pad_rows
from secateurs.models.families import FAMILIES, find_feedforwards
from secateurs.models.feedforward import masked
from secateurs.models.loading import hash_weights
from secateurs.results import LayerPlan, PruningPlan
from secateurs.texts import default_passages

VOCABULARY = 320
HIDDEN, WIDTH, LAYERS = 16, 24, 2
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": WIDTH,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
POSITIONS = {"max_position_embeddings": 160}
ENCODER = {**COMMON, **POSITIONS, "pad_token_id": 0}
DECODER = {**COMMON, **SPECIAL, **POSITIONS, "num_key_value_heads": 1, "head_dim": 8}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": WIDTH,
    "num_layers": LAYERS,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
# name of the case -> (class, config class, config settings, matrices and biases that belong to one neuron)
CASES = {
    "bert": ("BertForSequenceClassification", "BertConfig", ENCODER, 2 * HIDDEN + 1),
    "bert-model": ("BertModel", "BertConfig", ENCODER, 2 * HIDDEN + 1),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", ENCODER, 2 * HIDDEN + 1),
    "electra": ("ElectraForPreTraining", "ElectraConfig", {**ENCODER, "embedding_size": 8}, 2 * HIDDEN + 1),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {
            "vocab_size": VOCABULARY,
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": 2,
            "hidden_dim": WIDTH,
            "pad_token_id": 0,
            **POSITIONS,
        },
        2 * HIDDEN + 1,
    ),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", {**ENCODER, "embedding_size": 8}, 2 * HIDDEN + 1),
    "modernbert": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**ENCODER, **SPECIAL, "cls_token_id": 1, "sep_token_id": 2},
        3 * HIDDEN,
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_head": 2,
            "n_inner": None,
            "n_positions": 160,
            **SPECIAL,
        },
        2 * HIDDEN + 1,
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "ffn_dim": WIDTH,
            "word_embed_proj_dim": HIDDEN,
            **POSITIONS,
            **SPECIAL,
        },
        2 * HIDDEN + 1,
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**COMMON, **SPECIAL, **POSITIONS}, 2 * HIDDEN + 1),
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER, 3 * HIDDEN),
    "llama-biased": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "mlp_bias": True}, 3 * HIDDEN + 2),
    "mistral": ("MistralForCausalLM", "MistralConfig", DECODER, 3 * HIDDEN),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**DECODER, "tie_word_embeddings": True}, 3 * HIDDEN),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", DECODER, 3 * HIDDEN),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", DECODER, 3 * HIDDEN),
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextConfig", DECODER, 3 * HIDDEN),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", DECODER, 3 * HIDDEN),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, 2 * HIDDEN),
    "t5-gated": ("T5ForConditionalGeneration", "T5Config", {**T5, "feed_forward_proj": "gated-gelu"}, 3 * HIDDEN),
    "t5-encoder": ("T5EncoderModel", "T5Config", T5, 2 * HIDDEN),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "intermediate_size": WIDTH,
            "image_size": 8,
            "patch_size": 4,
        },
        2 * HIDDEN + 1,
    ),
}


def make_model(case: str, *, seed: int = 0, attention: str | None = None, **changes):
    """A tiny model in evaluation mode, with weights large enough for neurons to matter (T5 starts out large)."""
    class_name, config_name, settings, _ = CASES[case]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**settings | changes)
    if attention:
        config._attn_implementation = attention
    model = getattr(transformers, class_name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and config.model_type != "t5":
                parameter.mul_(5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def family_of(model):
    return FAMILIES[model.config.model_type]


def make_inputs(model, *, rows: int = 3, tokens: int = 12, seed: int = 0):
    """A padded batch of random tokens, or random pixels."""
    generator = torch.Generator().manual_seed(seed)
    if model.config.model_type == "vit":
        return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator)}
    lengths = [tokens - 2 * place for place in range(rows)]
    batch = pad_rows([torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths], 0)
    return add_decoder_input(batch, model) if family_of(model).kind == "encoder-decoder" else batch


def outputs(model, inputs):
    with torch.inference_mode():
        return model(**inputs)[0]


def random_plan(model, width: int, *, seed: int = 0) -> PruningPlan:
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for ffn in find_feedforwards(model, family_of(model)):
        kept = torch.randperm(ffn.width, generator=generator)[:width].sort().values.numpy()
        layers.append(LayerPlan(ffn.path, ffn.width, kept))
    return PruningPlan("test", model.config.model_type, 0.5, hash_weights(model), {}, tuple(layers))


def masked_outputs(model, plan: PruningPlan, inputs):
    feedforwards = find_feedforwards(model, family_of(model))
    masks = []
    for ffn, layer in zip(feedforwards, plan.layers, strict=True):
        mask = torch.zeros(ffn.width)
        mask[torch.from_numpy(layer.kept)] = 1
        masks.append(mask)
    with masked(feedforwards, masks):
        return outputs(model, inputs)


@cache
def make_tokenizer(start: bool = False):
    """A byte-level BPE of 320 pieces, trained on the text that Python carries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(default_passages("test"), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=160
    )


def save_checkpoint(folder, case: str = "llama", *, seed: int = 0, **settings):
    """A tiny checkpoint on disk, with a tokenizer; gives back the folder."""
    model = make_model(case, seed=seed)
    model.save_pretrained(folder, **settings)
    make_tokenizer().save_pretrained(folder)
    return folder
