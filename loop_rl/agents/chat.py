"""A conversation becomes tokens exactly once.

What the policy sampled is never tokenised again. A multi-turn conversation is therefore built by appending:

    prompt   <system> <worked example> <instruction> <generation prompt>     first_turn
    action   ...sampled...<|im_end|>                                         comes from the policy
    context  \n<|im_start|>user\n OBSERVATION <|im_end|>\n<|im_start|>assistant\n    next_turn
    action   ...

The text around the contents is found by rendering the model's own chat template with markers in place of the contents,
so any template that closes a turn with a special token works. Contents are encoded with special tokens, and with all others
that the template writes its turns with, split into ordinary ones: a REPL that prints `<|im_end|>` cannot end its own turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError
from tokenizers import AddedToken

from loop_rl.config.settings import AgentConfig
from loop_rl.data.messages import Message, message

# Longer an observation loses its middle before tokenisation: a 5 MB print would take seconds to encode. Tokens average
# 2-4 characters, so the cut by tokens still decides in practice.
_MAX_CHARS_PER_TOKEN = 16

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class ChatError(ValueError):
    """The model's tokenizer or chat template cannot be used; one line that names the model and what to do."""


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a model. Raises ChatError: there is none under `path`, or it has no chat template."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        # AutoTokenizer gives every Qwen2 model Qwen2's own tokenizer, also where the folder says that its tokenizer.json
        # is to be taken as it is.
        if Path(path).is_dir() and not any((Path(path) / name).exists() for name in _TOKENIZER_FILES):
            raise OSError(f"none of {', '.join(_TOKENIZER_FILES)} there")  # AutoTokenizer would make an empty one
        as_it_is = get_tokenizer_config(path).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
        tokenizer = (PreTrainedTokenizerFast if as_it_is else AutoTokenizer).from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ChatError(
            f"{path}: no tokenizer could be loaded ({reason}); put tokenizer.json and tokenizer_config.json there, "
            "or correct model.path"
        ) from error
    if not getattr(tokenizer, "chat_template", None):
        raise ChatError(
            f"{path}: the tokenizer has no chat template; use an instruction-tuned model, or set chat_template in its "
            "tokenizer_config.json"
        )
    return tokenizer


@dataclass(frozen=True)
class Shown:
    """An observation as it is appended to the conversation."""

    token_ids: list[int]
    text: str


class Chat:
    """Turns the conversations of one model into tokens. Holds no state of any conversation.

    max_observation_tokens: longer an observation is cut to this.
    observation_cut: what of a longer one is left out, see `AgentConfig.observation_cut`.

    Raises:
        ChatError: the chat template cannot be used turn by turn.
    """

    end_of_turn_id: int
    """Special token that ends an action; the policy stops at it."""

    def __init__(
        self, tokenizer: Any, max_observation_tokens: int, observation_cut: Literal["middle", "tail"] = "middle"
    ) -> None:
        self.tokenizer = tokenizer
        self._max_observation_tokens = max_observation_tokens
        self._cut = self._without_middle if observation_cut == "middle" else self._without_tail
        self._name = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        user, action, observation = "FIRSTUSER", "ANACTION", "ANOBSERVATION"
        rendered = self._render([message("user", user), message("assistant", action), message("user", observation)])
        self._split_in_contents(rendered + str(tokenizer.chat_template))
        try:
            _, rest = rendered.split(action)
            between, generation = rest.split(observation)
        except ValueError:
            raise ChatError(f"{self._name}: the chat template does not keep messages as they are") from None
        closing = self._encode_template(between)
        if not closing or not tokenizer.added_tokens_decoder.get(closing[0]):
            raise ChatError(
                f"{self._name}: the chat template does not end an assistant turn with a special token, "
                f"but with {between!r}"
            )
        self.end_of_turn_id = closing[0]
        self._before_observation = closing[1:]
        self._after_observation = self._encode_template(generation)
        # Tokenizers that add a space in front of every piece would make the conversation drift from its template.
        pieces = closing + self.encode(observation) + self._after_observation
        if self.decode(pieces) != between + observation + generation:
            raise ChatError(f"{self._name}: the tokenizer cannot encode a conversation piece by piece")

    @classmethod
    def from_pretrained(cls, path: str, agent: AgentConfig) -> Chat:
        """The chat of the model under `path` with the settings of `agent`. Raises ChatError."""
        return cls(load_tokenizer(path), agent.max_observation_tokens, agent.observation_cut)

    def first_turn(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the messages before the first action, then the generation prompt."""
        markers = [f"MESSAGE{index}CONTENT" for index in range(len(messages))]
        rendered = self._render([message(m["role"], marker) for m, marker in zip(messages, markers, strict=True)])
        ids: list[int] = []
        for original, marker in zip(messages, markers, strict=True):
            before, found, rendered = rendered.partition(marker)
            if not found:
                raise ChatError(f"{self._name}: the chat template drops or reorders {original['role']} messages")
            ids += self._encode_template(before) + self.encode(original["content"])
        return ids + self._encode_template(rendered)

    def next_turn(self, observation: Shown, last_action_id: int) -> list[int]:
        """Tokens between an action and the next one.

        `last_action_id` is the last token that the policy sampled: when the action was cut short, the end-of-turn
        token that it lacks becomes context.
        """
        closing = [] if last_action_id == self.end_of_turn_id else [self.end_of_turn_id]
        return closing + self._before_observation + observation.token_ids + self._after_observation

    def observation(self, output: str, reminder: str = "") -> Shown:
        """Encode an observation, of a longer one what is kept of it: never more than `max_observation_tokens` tokens.

        reminder: stands behind it, whole, whatever its length.
        """
        shown = self._cut(output)
        return Shown(shown.token_ids + self.encode(reminder), shown.text + reminder) if reminder else shown

    def _without_tail(self, output: str) -> Shown:
        """The whole lines that fit, the first one as far as it does. Released code of LOOP."""
        max_tokens = self._max_observation_tokens
        ids = self.encode(output[: max_tokens * _MAX_CHARS_PER_TOKEN])
        if len(ids) <= max_tokens and len(output) <= max_tokens * _MAX_CHARS_PER_TOKEN:
            return Shown(ids, output)
        text = self.decode(ids[:max_tokens])
        lines, newline, _ = text.rpartition("\n")
        text = lines if newline else text
        return Shown(self.encode(text)[:max_tokens], text)

    def _without_middle(self, output: str) -> Shown:
        """Head and tail around a line that says what is missing; where not even the line fits, only the head."""
        max_tokens = self._max_observation_tokens
        edge = max_tokens * _MAX_CHARS_PER_TOKEN
        head_text, tail_text = (output, "") if len(output) <= 2 * edge else (output[:edge], output[-edge:])
        ids = self.encode(head_text)
        if not tail_text and len(ids) <= max_tokens:
            return Shown(ids, output)
        tail = self.encode(tail_text) if tail_text else ids
        # The line's length in tokens varies with its digits, hence the loop; it runs once or twice.
        kept = max_tokens - len(self.encode(_cut_line(len(output))))
        while kept > 0:
            head_kept, tail_kept = ids[: (kept + 1) // 2], tail[len(tail) - kept // 2 :]
            shown = len(self.decode(head_kept)) + len(self.decode(tail_kept))
            result = head_kept + self.encode(_cut_line(max(len(output) - shown, 0))) + tail_kept
            if len(result) <= max_tokens:
                return Shown(result, self.decode(result))
            kept -= len(result) - max_tokens
        return Shown(ids[:max_tokens], self.decode(ids[:max_tokens]))

    def num_tokens(self, ids: list[int]) -> int:
        """Length of a conversation."""
        return len(ids)

    def encode(self, text: str) -> list[int]:
        """Encode contents: special tokens written out in `text` become ordinary tokens."""
        return self.tokenizer.encode(
            _storable(text), add_special_tokens=False, split_special_tokens=True, verbose=False
        )

    def decode(self, ids: list[int]) -> str:
        """Text of tokens, special ones written out."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def action_text(self, action_ids: list[int]) -> str:
        """Text of an action without its end-of-turn token."""
        ended = bool(action_ids) and action_ids[-1] == self.end_of_turn_id
        return self.decode(action_ids[:-1] if ended else action_ids)

    def _split_in_contents(self, template: str) -> None:
        """Let contents never become one of the template's own tokens, also where they are not declared special."""
        added = self.tokenizer.added_tokens_decoder.values()
        # Gemma's runs of newlines are added tokens as well; those begin no turn.
        markers = [token for token in added if token.content.strip() and token.content in template]
        undeclared = [token for token in markers if not token.special]
        if undeclared:
            flags = ("single_word", "lstrip", "rstrip", "normalized")
            declared = [
                AddedToken(token.content, special=True, **{flag: getattr(token, flag) for flag in flags})
                for token in undeclared
            ]
            self.tokenizer.add_tokens(declared, special_tokens=True)
        for token in markers:
            if self.tokenizer.convert_tokens_to_ids(token.content) in self.encode(token.content):
                raise ChatError(
                    f"{self._name}: the tokenizer cannot write {token.content!r} as ordinary text, so what an environment says "
                    "could begin or end a turn"
                )

    def _encode_template(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False) if text else []

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return self._rendered(messages)
        except TemplateError as error:
            roles = ", ".join(dict.fromkeys(m["role"] for m in messages))
            raise ChatError(f"{self._name}: the chat template refuses a conversation of {roles}: {error}") from error

    def _rendered(self, messages: Sequence[Message]) -> str:
        # Hybrid reasoning models (Qwen3) are asked not to think in a hidden block: the thoughts of a ReAct agent stand
        # in its turn, and templates delete hidden ones from the history. Other templates ignore the setting.
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )


def _cut_line(num_chars: int) -> str:
    return f"\n[... {num_chars} characters cut ...]\n"


def _storable(text: str) -> str:
    # A program can print a lone surrogate, which no tokenizer accepts.
    return text.encode("utf-8", "replace").decode("utf-8")
