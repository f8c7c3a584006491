"""A model directory for tests: a real byte-level BPE tokenizer with a ChatML template, and no weights."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CORPUS = (
    "the of and to in is that for it was on are with they be at one have this from or had by but some what "
    "there we can out other were all your when up use word how said an each she which do their time if will "
    "way about many then them would write like so these her long make thing see him two has look more day "
    "could go come did number sound no most people my over know water than call first who may down side been "
    "now find system user assistant You are a helpful assistant. Hello! Tell me about prefix caching, please."
)
"""Every word of it becomes one token, with and without a space before it."""


def build_tiny_model(directory: Path) -> Path:
    """Write tokenizer.json, tokenizer_config.json and config.json into a directory, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    _train_tokenizer().save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": SPECIAL_TOKENS[1:],
            "clean_up_tokenization_spaces": False,
            "model_max_length": 32_768,
        },
    )
    _write_json(
        directory / "config.json",
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 32_768},
    )
    return directory


def _train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = CORPUS.split()
    tokenizer.train_from_iterator([CORPUS, *words], trainer)
    return tokenizer


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))
