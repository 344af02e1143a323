"""Losses, and what neurons and weights do to them: gradients that leave the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.models.feedforward import FeedForward, masked, masked_inside
from secateurs.models.outputs import as_inputs, is_classifier

Target = Literal["next token", "class", "number"]
RowLoss = Callable[[Tensor, int], Tensor]
"""Called as loss(logits, number of the batch); returns (B,), the loss of each row of the batch."""


def find_target(model: Any) -> Target:
    """What the model's head predicts.

    Raises:
        InputError: the model has no head with a loss of its own.
    """
    name = type(model).__name__
    if is_classifier(model):
        return "number" if model.config.num_labels == 1 else "class"
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "next token"
    raise InputError(
        f"{name} has no loss to take gradients of; give a language model, or a classifier with labelled rows "
        "(secateurs finetune makes one)"
    )


def next_token_losses(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """(B,) mean cross-entropy of each row's next tokens, padding left out.

    Args:
        logits: (B, T, V) float.
        batch: input_ids (B, T), and attention_mask where rows are padded.
    """
    ids = batch["input_ids"].to(logits.device)
    real = torch.ones_like(ids) if "attention_mask" not in batch else batch["attention_mask"].to(logits.device)
    counts = real[:, 1:] * real[:, :-1]
    losses = nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def label_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) cross-entropy of each row's class, or squared error of its number where the head has one output.

    Args:
        logits: (B, classes) float.
        labels: (B,) int64 classes, or float32 numbers.
    """
    labels = labels.to(logits.device)
    if logits.shape[1] == 1:
        return (logits[:, 0].float() - labels.float()).square()
    return nn.functional.cross_entropy(logits.float(), labels.long(), reduction="none")


def divergence_from(teacher: Any, batches: Sequence[Mapping[str, Tensor]], temperature: float = 1.0) -> RowLoss:
    """The loss of a row that says how far the logits are from another model's.

    That is T^2 KL(softmax(t / T) || softmax(s / T)) of a class, its mean over the real positions of a row of next
    tokens, or the squared error of a number.

    Args:
        teacher: in evaluation mode; it runs once a batch, without gradients.
        batches: what both models read.
        temperature: T.
    """
    target = find_target(teacher)

    def loss(logits: Tensor, number: int) -> Tensor:
        batch = batches[number]
        with torch.no_grad():
            wanted = read_logits(teacher, batch)
        if target == "number":
            return (logits[:, 0] - wanted[:, 0]).square()
        own, other = (nn.functional.log_softmax(values / temperature, dim=-1) for values in (logits, wanted))
        found = temperature**2 * (other.exp() * (other - own)).sum(dim=-1)
        return found if target == "class" else mean_over_positions(found, batch)

    return loss


def mean_over_positions(values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """(B,) mean of (B, T) values of each row, padding left out."""
    if "attention_mask" not in batch:
        return values.mean(dim=1)
    real = batch["attention_mask"].to(values)
    return (values * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def mask_gradients(
    model: Any,
    feedforwards: Sequence[FeedForward],
    batches: Sequence[Mapping[str, Tensor]],
    loss: RowLoss,
    masks: Sequence[Tensor] | None = None,
    *,
    is_incoming: bool = False,
) -> Iterator[list[Tensor]]:
    """For each batch, (B, K) float64 a network: the gradient of each row's loss by a factor on each activation.

    Args:
        model: in evaluation mode; it is not changed.
        feedforwards: the networks.
        batches: keyword arguments of the forward pass.
        loss: of each row.
        masks: (K,) a network, factors on the activations where the gradients are taken; all ones by default.
        is_incoming: by a factor on each output of the up projection, bias included (networks without gates).

    Raises:
        InputError: a gradient is not finite.

    Cost:
        A forward and a backward pass through the activations; no gradient of a weight is made.
    """
    device = next(model.parameters()).device
    ones = [torch.ones(ffn.width) for ffn in feedforwards]
    starts, scaled = (ones, masked_inside) if is_incoming else (masks or ones, masked)
    for number, batch in enumerate(batches):
        rows = len(next(iter(batch.values())))
        factors = [start.to(device, torch.float32).repeat(rows, 1).requires_grad_() for start in starts]
        fixed = masked(feedforwards, masks) if is_incoming and masks else nullcontext()
        with frozen(model), torch.enable_grad(), fixed, scaled(feedforwards, factors):
            total = loss(read_logits(model, batch), number).sum()
            found = torch.autograd.grad(total, factors)
        for ffn, gradient in zip(feedforwards, found, strict=True):
            require_finite_gradients(ffn, gradient)
        yield [gradient.double().cpu() for gradient in found]


def require_finite_gradients(ffn: FeedForward, values: Tensor) -> None:
    """Raise InputError where gradients by what a network does, or scores made from them, are NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"the gradients of {ffn.path} are NaN or infinite; try --dtype float32")


def weight_gradients(
    model: Any,
    weights: Sequence[Tensor],
    batches: Sequence[Mapping[str, Tensor]],
    loss: RowLoss,
) -> list[Tensor]:
    """Gradient of the mean loss over all rows by each of some weights, float32.

    Args:
        model: in evaluation mode; it is not changed.
        weights: parameters of the model.
        batches: keyword arguments of the forward pass.
        loss: of each row.
    """
    rows = 0
    totals = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    with frozen(model):
        for weight in weights:
            weight.requires_grad_(True)
        for number, batch in enumerate(batches):
            with torch.enable_grad():
                losses = loss(read_logits(model, batch), number)
                found = torch.autograd.grad(losses.sum(), list(weights))
            rows += len(losses)
            for total, gradient in zip(totals, found, strict=True):
                total += gradient.float()
    return [total / rows for total in totals]


def read_logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """What the head says of a batch, float32; gradients flow where they are switched on."""
    logits: Tensor = model(**as_inputs(model, batch)).logits
    return logits.float()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No weight takes a gradient while the context lasts; afterwards each is as it was."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
