"""The demo model's tokenizer: byte-level BPE whose digits stand alone, trained on demo text."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from edgewise.demo.questions import ANSWER_CUE, END_OF_TEXT, MAX_FACTS, draw_episode, training_text

VOCABULARY_SIZE: Final = 1024
TOKENIZER_EPISODES: Final = 20_000
# A word, a single digit or a run of signs, each with the space before it; or white space.
WORDS: Final = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ message['content'] + '\n' }}"
    "{% if message['role'] == 'user' %}{{ '" + ANSWER_CUE + "' }}{% endif %}{% endif %}"
    "{% endfor %}"
)


def train_tokenizer(seed: int) -> Tokenizer:
    """A tokenizer trained on the text of seeded episodes; it round-trips any UTF-8."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    return tokenizer


def _texts(seed: int) -> Iterator[str]:
    """Training texts, none of them held out."""
    rng = random.Random(seed)
    for _ in range(TOKENIZER_EPISODES):
        yield training_text(draw_episode(rng, MAX_FACTS, MAX_FACTS), rng.choice(("\n", " ")))


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_tokens: int) -> None:
    """Write `tokenizer.json` and a `tokenizer_config.json` that transformers understands."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
