"""Small tokenizers with chat templates, each in the shape of those of a well-known family of models."""

import json
from dataclasses import dataclass, field

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.tiny_model import CHAT_TEMPLATE, CORPUS, SPECIAL_TOKENS

LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA_WORDS.replace("{1,3}", "")

LLAMA_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% if tools %}{{ '<|start_header_id|>tools<|end_header_id|>\n\n' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) }}{% endfor %}{{ '<|eot_id|>' }}{% endif %}"
    "{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{{ message.content | trim }}{% for call in message.tool_calls or [] %}{{ call.function | tojson }}"
    "{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% for message in messages %}"
    "{% set content = message.content %}"
    "{% if message.role == 'assistant' and not loop.last and messages[-1].role == 'user' %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' }}"
    "{{ '' if loop.last else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ ' ' + message.content + '</s>' }}{% else %}{{ '[INST] ' + message.content + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)
PARTS_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{{ part.text }}{{ '' if loop.last else '|' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
)
LLAMA_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN_TOKENS = [*SPECIAL_TOKENS, AddedToken("<think>", normalized=False), "</think>", "<|im_"]
STRIPPING = [AddedToken(token, lstrip=True, rstrip=True, normalized=False) for token in SPECIAL_TOKENS]


@dataclass(frozen=True)
class Kind:
    """A tokenizer to build."""

    template: str
    specials: list
    pre_tokenizer: object = None
    normalizer: object = None
    processor: object = None
    model: dict = field(default_factory=dict)
    alphabet: str = ""
    """Bytes that it knows, as byte-level BPE writes them; "" for all."""
    cuts: str = ""
    """Where texts can be cut: "", "marker", "words" or "both"."""


def byte_level(words=None):
    """Cuts words by a regular expression, or as GPT-2 does, and maps bytes to characters."""
    if words is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(words), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def surrounded(front, back):
    """Puts a special token in front of a text, and one behind."""
    return processors.TemplateProcessing(single=f"{front} $A {back}", special_tokens=[(front, 0), (back, 1)])


KINDS = {
    "chatml": Kind(CHAT_TEMPLATE, SPECIAL_TOKENS, byte_level(), cuts="both"),
    "missing bytes": Kind(CHAT_TEMPLATE, SPECIAL_TOKENS, byte_level(), alphabet="abehlnostuĠĊ", cuts="both"),
    "parts": Kind(PARTS_TEMPLATE, SPECIAL_TOKENS, byte_level(), cuts="both"),
    "llama3": Kind(
        LLAMA_TEMPLATE,
        LLAMA_TOKENS,
        byte_level(LLAMA_WORDS),
        processor=surrounded("<|begin_of_text|>", "<|start_header_id|>"),
        model={"ignore_merges": True},
        cuts="both",
    ),
    "qwen": Kind(QWEN_TEMPLATE, QWEN_TOKENS[:-1], byte_level(QWEN_WORDS), normalizers.NFC(), cuts="both"),
    "llama2": Kind(
        MISTRAL_TEMPLATE,
        ["<s>", "</s>"],
        None,
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        surrounded("<s>", "</s>"),
        {"byte_fallback": True, "fuse_unk": True},
        cuts="marker",
    ),
    "mistral": Kind(
        MISTRAL_TEMPLATE,
        ["<s>", "</s>", "[INST]", "[/INST]"],
        pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        cuts="marker",
    ),
    "prefix space": Kind(
        CHAT_TEMPLATE, SPECIAL_TOKENS, pre_tokenizers.ByteLevel(add_prefix_space=True), cuts="marker"
    ),
    "odd words": Kind(CHAT_TEMPLATE, SPECIAL_TOKENS, byte_level(r"\w+ \w+|."), cuts="marker"),
    "overlapping markers": Kind(CHAT_TEMPLATE, QWEN_TOKENS, byte_level(), cuts="both"),
    "nested markers": Kind(
        CHAT_TEMPLATE,
        ["<|im_start|>", "<|im_end|>", "\n<|im_start|>", "<|im_end|>\n<|im"],
        byte_level(),
        cuts="words",
    ),
    "stripping": Kind(CHAT_TEMPLATE, STRIPPING, byte_level(), cuts="words"),
    "lower case": Kind(CHAT_TEMPLATE, STRIPPING, byte_level(), normalizers.Lowercase()),
    "whole lines": Kind(CHAT_TEMPLATE, STRIPPING, byte_level(r"[^\n]+|\n")),
}


def build_kind(kind, directory):
    """Write one into a directory, and return that."""
    tokenizer = Tokenizer(models.BPE(**kind.model))
    if kind.normalizer is not None:
        tokenizer.normalizer = kind.normalizer
    if kind.pre_tokenizer is not None:
        tokenizer.pre_tokenizer = kind.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=kind.specials,
        initial_alphabet=list(kind.alphabet) or pre_tokenizers.ByteLevel.alphabet(),
        limit_alphabet=len(kind.alphabet) or 1000,
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS, *CORPUS.split()], trainer)
    if kind.processor is not None:
        tokenizer.post_processor = kind.processor
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": kind.template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
