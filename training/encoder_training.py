"""Train the history encoder, Stage I: give back the frames of the history that are asked for.

Pretraining Frame Preservation (arXiv 2512.23851v6, section 3.2). Stage II is `dev.py train memory`.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Train on the demo's world or, with `--model` and `--videos`, on a real model and films."""
    from .memory_recipes import RETRIEVAL
    from .memory_stages import command

    return command(RETRIEVAL, arguments)
