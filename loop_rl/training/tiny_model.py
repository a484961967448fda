"""Make the tiny policy of the embedded default: a Qwen2 of a few million parameters that knows the format, no more.

    python -m loop_rl.training.tiny_model --demonstrations demonstrations.jsonl --out models/tiny

Trains a byte-level BPE tokenizer and then, by plain supervised learning on one process, the model. The demonstrations
are of mixed quality on purpose (the share that solves its task is what `--wrong-fraction` of the generator leaves): the
policy imitates careless agents as often as careful ones, so reinforcement learning has something to prefer. Run
`launch/tiny_model.sh` for the whole recipe. Left out of the textbook version: validation-based early stopping (the
figure that matters is the success rate of real episodes, which `loop_rl.evaluate` measures) and dropout (every
demonstration is seen only a few times).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from rich.progress import Progress, track
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from loop_rl.agents.chat import Chat
from loop_rl.environments.appworld.demonstrations import as_conversation

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIECES = {
    # A Python operator with its spaces, one identifier, one digit or one run of punctuation at a time, so that an API's name
    # becomes one token and a number's digits are never merged.
    "python": Regex(r" (?:for|in|if|=|==) |\.?[A-Za-z_]+|\d|\n+ *|[^\sA-Za-z\d_]+| +"),
    # A word with the space before it, or one digit.
    "words": Regex(r" ?[A-Za-z]+| ?\d|\n|[^\sA-Za-z\d]+| +"),
}
"""What a token may be at most, by the kind of text."""


def build_tokenizer(texts: list[str], pieces: str, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the ChatML template, of `vocab_size` tokens at most, all in use."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES[pieces], "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=max(2, len(texts) // 60),  # pieces of names are of no use
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights. The vocabulary is exactly the tokenizer's: padding ids would get sampled."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=8 * args.hidden_size // 3 // 32 * 32,
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.hidden_size // 32,
        num_key_value_heads=max(1, args.hidden_size // 64),
        initializer_range=args.hidden_size**-0.5,  # the usual 0.02 is for wide models
        max_position_embeddings=args.max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def batches(examples: list[tuple[list[int], list[bool]]], max_tokens: int, rng: random.Random):
    """Shuffled batches of similar length, each of at most `max_tokens` padded tokens."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]) + rng.uniform(-20, 20))
    batch, longest, result = [], 0, []
    for i in order:
        longest = max(longest, len(examples[i][0]))
        if batch and longest * (len(batch) + 1) > max_tokens:
            result.append(batch)
            batch, longest = [], len(examples[i][0])
        batch.append(i)
    result.append(batch)
    rng.shuffle(result)
    return result


def collate(examples: list[tuple[list[int], list[bool]]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] and labels [B, T] (-100 where the agent did not write the token)."""
    longest = max(len(ids) for ids, _ in examples)
    ids_BT = torch.full((len(examples), longest), pad_id)
    labels_BT = torch.full((len(examples), longest), -100)
    for row, (ids, mask) in enumerate(examples):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        labels_BT[row, : len(ids)] = torch.where(torch.tensor(mask), ids_BT[row, : len(ids)], -100)
    return ids_BT, labels_BT


def fit(model: Qwen2ForCausalLM, examples: list, args: argparse.Namespace, pad_id: int) -> float:
    """Supervised training; returns the mean loss per action token of the last epoch."""
    rng = random.Random(args.seed)
    schedule = [
        [examples[i] for i in batch] for _ in range(args.epochs) for batch in batches(examples, args.batch_tokens, rng)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = min(100, len(schedule) // 10 + 1)
    losses: list[float] = []
    with Progress() as progress:
        bar = progress.add_task("warm-up", total=len(schedule))
        for step, batch in enumerate(schedule):
            decay = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, len(schedule) - warmup)))
            for parameters in optimizer.param_groups:
                parameters["lr"] = args.learning_rate * min(1, (step + 1) / warmup) * (0.02 + 0.98 * decay)
            ids_BT, labels_BT = collate(batch, pad_id)
            # Twice as fast where the processor has it, and many times slower where not; weights and optimiser stay float32.
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not args.float32):
                loss = model(input_ids=ids_BT, labels=labels_BT).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            progress.update(bar, advance=1)
            if (step + 1) % 50 == 0:
                progress.console.print(f"step {step + 1}/{len(schedule)}: loss {sum(losses[-50:]) / 50:.4f}")
    return sum(losses[-len(losses) // args.epochs :]) / (len(losses) // args.epochs)


def load_demonstrations(path: Path) -> list[dict]:
    """Conversations, one a line: {"messages": what came before the first action, "turns": [{"text", "output"}]}; AppWorld's
    demonstrations hold what such a conversation is made of."""
    demonstrations = [json.loads(line) for line in path.read_text().splitlines()]
    return [d if "messages" in d else as_conversation(d) for d in demonstrations]


def demonstration_tokens(chat: Chat, demonstration: dict) -> tuple[list[int], list[bool]]:
    """Tokens of a demonstrated episode and the mask of its actions, exactly as an agent would have produced it. The last
    output is not part of the episode, as the agent never saw it."""
    turns = demonstration["turns"]
    ids = chat.first_turn(demonstration["messages"])
    mask = [False] * len(ids)
    for index, turn in enumerate(turns):
        action = [*chat.encode(turn["text"]), chat.end_of_turn_id]
        ids += action
        mask += [True] * len(action)
        if index < len(turns) - 1:
            context = chat.next_turn(chat.observation(turn["output"]), action[-1])
            ids += context
            mask += [False] * len(context)
    return ids, mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demonstrations", type=Path, required=True, help="a file of conversations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="padded tokens of one optimiser step")
    parser.add_argument("--hidden-size", type=int, default=128, help="a multiple of 64")
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--pieces", choices=list(PIECES), default="python", help="kind of text (default: %(default)s)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 in forward and backward passes")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest sequence the model can take")
    parser.add_argument("--max-observation-tokens", type=int, default=128, help="as in the config that will use it")
    args = parser.parse_args()
    if args.out.exists():
        print(f"error: {args.out} exists; move it away first", file=sys.stderr)
        return 1
    torch.manual_seed(args.seed)
    started = time.monotonic()

    demonstrations = load_demonstrations(args.demonstrations)
    texts = [
        "system\nuser\n"
        + d["messages"][-1]["content"]
        + "".join(f"\nassistant\n{turn['text']}\nuser\n{turn['output']}\n" for turn in d["turns"])
        for d in demonstrations
    ]
    tokenizer = build_tokenizer(texts, args.pieces, args.vocab_size, args.max_tokens)
    chat = Chat(tokenizer, args.max_observation_tokens)
    examples = [demonstration_tokens(chat, d) for d in track(demonstrations, "tokenising")]
    lengths = sorted(len(ids) for ids, _ in examples)
    print(f"{len(lengths)} demonstrations, tokens each: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}")

    model = build_model(tokenizer, args)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}")
    loss = fit(model, examples, args, tokenizer.pad_token_id)
    args.out.mkdir(parents=True)
    model.to(torch.bfloat16).save_pretrained(args.out)  # halves the file; computed in float32 again when loaded
    tokenizer.save_pretrained(args.out)
    print(f"{args.out}: loss per action token {loss:.4f}, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
