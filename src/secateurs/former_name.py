"""What was written while the package was still called `secateur`."""

from __future__ import annotations

from typing import Any

NAME, FORMER_NAME = "secateurs", "secateur"
"""Of the package, the command, the default method, and the folder in a checkpoint that holds plan and manifest."""
FOLDERS = (NAME, FORMER_NAME)
"""Names of that folder, to be looked for in this order."""


def rename(content: Any, before: str = FORMER_NAME, now: str = NAME) -> Any:
    """Plain values with a name in its new form, wherever it is all of a text or of a key."""
    if isinstance(content, dict):
        return {rename(key, before, now): rename(value, before, now) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(rename(value, before, now) for value in content)
    return now if content == before else content
