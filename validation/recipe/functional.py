"""A `model_config.yaml` of Megatron-LM's functional tests: MODEL_ARGS as words, ENV_VARS as variables.

The rules are those of `_run_training.sh`, which makes a command line of it: `true` is a flag alone, a list its items.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from validation.case.errors import UsageError
from validation.recipe.words import Command, Word
from validation.recipe.yaml_file import entries, text_of

KEY = "MODEL_ARGS"


def command(node: yaml.MappingNode, source: str) -> Command:
    """The command line that the test runs. Raises UsageError for a file without arguments."""
    top = {entry.key: entry for entry in entries(node, source)}
    arguments = top[KEY].node if KEY in top else node
    words = tuple(word for entry in entries(arguments, source) for word in _words(entry.key, entry.node, entry.place))
    if not words:
        raise UsageError(f"{source}: {KEY} is empty; write the flags of the training below it")
    variables = entries(top["ENV_VARS"].node, source) if "ENV_VARS" in top else iter(())
    return Command(tuple((entry.key, text_of(entry.node)) for entry in variables), (), "", words)


def _words(key: str, node: yaml.Node, place: str) -> Iterator[Word]:
    yield Word(key, place)
    if isinstance(node, yaml.SequenceNode):
        yield from (Word(part, place) for item in node.value for part in text_of(item).split())
    elif isinstance(node, yaml.ScalarNode) and node.value not in ("", "true", "True", "TRUE", "null", "~"):
        text = node.value.strip()
        if text.startswith("[") and text.endswith("]") and "(" not in text and "*" not in text and "," not in text:
            yield from (Word(part, place) for part in text[1:-1].split())
        else:
            yield Word(text, place)
