"""CLIP's text encoder with its tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor, nn

from ..errors import InputError

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class TextEncoder(nn.Module):
    """Sentences to features: transformers' CLIPTextModel over a CLIP tokenizer, whole length, last layer.

    `config` is the CLIPTextConfig as a dict, `tokenizer_files` the texts of the tokenizer's files by name
    (`vocab.json` and `merges.txt`, or `tokenizer.json`, at least), so that a checkpoint can carry them.

    Raises `InputError` for tokenizer files that are absent or unknown, or have more tokens than the encoder.
    """

    def __init__(self, config: dict, tokenizer_files: dict[str, str]):
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

        self.config = config
        self.tokenizer_files = tokenizer_files
        self.model = CLIPTextModel(CLIPTextConfig(**config))
        check_names(tokenizer_files)
        with tempfile.TemporaryDirectory() as folder:
            for name, text in tokenizer_files.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.max_length = self.model.config.max_position_embeddings
        tokens, room = max(self.tokenizer.get_vocab().values()) + 1, self.model.config.vocab_size
        if tokens > room:
            raise InputError(f"the tokenizer has {tokens} tokens, the text encoder {room}; they do not belong together")

    def tokenize(self, sentences: list[str]) -> Tensor:
        """Token ids (B, N), padded to the model's length; what is longer is cut off."""
        tokens = self.tokenizer(
            sentences, padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids

    def length(self, sentence: str) -> int:
        """How many tokens a sentence has, start and end included, before anything is cut off."""
        return len(self.tokenizer(sentence).input_ids)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Features (B, N, D) of token ids (B, N)."""
        return self.model(token_ids).last_hidden_state

    def encode(self, sentences: list[str]) -> Tensor:
        """Features (B, N, D) of sentences, on the encoder's device."""
        return self(self.tokenize(sentences).to(next(self.parameters()).device))


def check_names(tokenizer_files: dict[str, str]) -> None:
    """Raises `InputError` unless these are the files of a CLIP tokenizer; a name is never a path."""
    foreign = sorted(set(tokenizer_files) - set(TOKENIZER_FILES))
    if foreign:
        raise InputError(f"tokenizer file {foreign[0]!r} is not known; allowed: {', '.join(TOKENIZER_FILES)}")
    if "tokenizer.json" not in tokenizer_files and not {"vocab.json", "merges.txt"} <= tokenizer_files.keys():
        has = ", ".join(sorted(tokenizer_files)) or "no files"
        raise InputError(f"the tokenizer has {has}; it needs vocab.json and merges.txt, or tokenizer.json")


def read_tokenizer(folder: Path) -> dict[str, str]:
    """The tokenizer files of a folder in CLIP's layout, by name; tokenizer.json only in place of vocab.json."""
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if "vocab.json" in names and "tokenizer.json" in names:
        names.remove("tokenizer.json")
    try:
        return {name: (folder / name).read_text("utf-8") for name in names}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the tokenizer in {folder} cannot be read: {error}") from error
