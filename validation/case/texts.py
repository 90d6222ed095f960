"""Text as token ids, by the tokenizer in a HuggingFace folder. No torch, and transformers only if there is text."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.strangers import shown

Encode = Callable[[str], tuple[int, ...]]


def encoder(case: Case, source: Path) -> Encode:
    """What makes token ids of a file's texts, with the tokenizer's special tokens, as Megatron-LM's preprocess_data.py does.

    The tokenizer is loaded with the first text. Raises UsageError then if there is none.
    """
    folder = case.tokenizer or case.hf_model_path

    def encode(text: str) -> tuple[int, ...]:
        if folder is None:
            raise UsageError(f"{source} has text, which needs a tokenizer: --tokenizer DIR names its folder; or give token ids")
        return _loaded(folder)(text)

    return encode


@functools.cache
def _loaded(folder: str) -> Encode:
    """The tokenizer that transformers loads of a folder. It takes nothing from the network and runs no code of the folder."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not outlive a fork
    if not Path(folder).is_dir():
        raise UsageError(f"--tokenizer {folder}: there is no such folder; name the one with tokenizer.json")
    try:
        # By name: ranks import this module, and never call this. transformers costs them a second.
        tokenizer = importlib.import_module("transformers").AutoTokenizer
        found = tokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # what transformers says of files that it cannot read
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{folder}: no tokenizer that transformers can load ({shown(said)}); name another folder") from None
    return lambda text: tuple(found(text)["input_ids"])
