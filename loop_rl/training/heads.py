"""Log-probabilities and entropies of chosen tokens, without ever holding the logits of a whole sequence.

A 32k-token episode under a vocabulary of 152k would need 20 GB of float32 logits. Here only the hidden states that
predict an action meet the output head, `chunk_tokens` at a time, and each chunk's logits are computed again in the
backward pass instead of being kept.

Shapes: N action tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig


@dataclass(frozen=True)
class LogitRule:
    """What a model does to its logits after the output head."""

    factor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> LogitRule:
        """Gemma 2 and 3 cap them softly, Granite divides them, Cohere multiplies them."""
        text = config.get_text_config()
        factor = getattr(text, "logit_scale", None) or 1.0
        factor /= getattr(text, "logits_scaling", None) or 1.0
        return cls(factor, getattr(text, "final_logit_softcapping", None))

    def __call__(self, logits: Tensor) -> Tensor:
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits


class LogprobHead(nn.Module):
    """The output head of a causal LM, giving log-probabilities of known next tokens instead of logits.

    It holds the head's own parameters, not a copy. Being their direct owner it lets ZeRO-3 gather them once for all
    chunks, however many chunks each rank has.

    Args:
        head: the model's output embedding.
        temperature: the logits are divided by it; log-probabilities are those of the distribution sampled from.
        chunk_tokens: tokens whose logits exist at one time.
        rule: what the model does to its logits.
    """

    def __init__(self, head: nn.Linear, temperature: float, chunk_tokens: int, rule: LogitRule = LogitRule()):
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens
        self.rule = rule

    def forward(self, hidden_NH: Tensor, targets_N: Tensor, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Float32 log-probabilities of targets_N (int64), with gradient, and entropies in nats, without; both [N].

        entropy_gradient: of the entropies, too.
        """
        chunks = zip(hidden_NH.split(self.chunk_tokens), targets_N.split(self.chunk_tokens), strict=True)
        # Non-reentrant: the reentrant kind fails under ZeRO 2 and 3.
        results = [
            checkpoint(self._chunk, hidden_CH, targets_C, entropy_gradient, use_reentrant=False)
            for hidden_CH, targets_C in chunks
        ]
        logprobs, entropies = zip(*results, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _chunk(self, hidden_CH: Tensor, targets_C: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        logits_CV = self.rule(F.linear(hidden_CH, self.weight, self.bias).float())
        if self.temperature != 1.0:
            logits_CV = logits_CV / self.temperature
        logsumexp_C = logits_CV.logsumexp(-1)
        logprobs_C = logits_CV.gather(-1, targets_C[:, None])[:, 0] - logsumexp_C
        if entropy_gradient:
            probs_CV = (logits_CV - logsumexp_C[:, None]).exp()
            return logprobs_C, logsumexp_C - (probs_CV * logits_CV).sum(-1)
        # Last and without gradient, so that the recomputation in the backward pass stops before it.
        with torch.no_grad():
            probs_CV = (logits_CV - logsumexp_C[:, None]).exp_()
            entropies_C = logsumexp_C - probs_CV.mul_(logits_CV).sum(-1)
        return logprobs_C, entropies_C
