import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from loop_rl.training.heads import LogprobHead

NUM_TOKENS, HIDDEN, VOCAB, CHUNK = 50, 16, 1000, 8


def make(temperature=1.0, chunk_tokens=CHUNK, bias=False):
    torch.manual_seed(0)
    head = LogprobHead(nn.Linear(HIDDEN, VOCAB, bias=bias).requires_grad_(False), temperature, chunk_tokens)
    hidden = torch.randn(NUM_TOKENS, HIDDEN, requires_grad=True)
    return head, hidden, torch.randint(VOCAB, (NUM_TOKENS,))


def test_equals_log_softmax_of_all_logits_in_values_and_gradient():
    for temperature in (1.0, 0.7):
        head, hidden, targets = make(temperature, bias=True)
        logprobs, entropies = head(hidden, targets)
        upstream = torch.randn(NUM_TOKENS)
        (gradient,) = torch.autograd.grad(logprobs @ upstream, hidden)

        naive = torch.log_softmax((hidden @ head.weight.T + head.bias) / temperature, dim=-1)
        naive_logprobs = naive.gather(1, targets[:, None])[:, 0]
        (naive_gradient,) = torch.autograd.grad(naive_logprobs @ upstream, hidden)
        torch.testing.assert_close(logprobs, naive_logprobs, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(entropies, -(naive.exp() * naive).sum(-1), atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(gradient, naive_gradient, atol=1e-6, rtol=1e-5)
        assert not entropies.requires_grad


def test_half_precision_hidden_states_give_float32_logprobs():
    head, hidden, targets = make()
    logprobs, entropies = head.bfloat16()(hidden.bfloat16(), targets)
    assert logprobs.dtype == entropies.dtype == torch.float32


class LargestTensor(TorchDispatchMode):
    """Records the most elements any operation's result had, and how many operations made a chunk of logits."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            # The transposed weight is a view, no memory of its own.
            if isinstance(tensor, torch.Tensor) and HIDDEN not in tensor.shape:
                self.num_elements = max(self.num_elements, tensor.numel())
        return out


def test_logits_never_exist_for_more_than_a_chunk_forward_or_backward():
    head, hidden, targets = make()
    with LargestTensor() as largest:
        head(hidden, targets)[0].sum().backward()
    assert largest.num_elements == CHUNK * VOCAB


def test_keeps_no_logits_for_the_backward_pass():
    head, hidden, targets = make()
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head(hidden, targets)
    assert max(kept, default=0) < CHUNK * VOCAB
