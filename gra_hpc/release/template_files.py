"""The templates of pages and cards: a name that a template uses and nobody gave is an error, not nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from gra_hpc.release.charts import shown


def template_files(folder: Path, finalize: Callable[[Any], Any] = shown, html: bool = True) -> jinja2.Environment:
    """Templates in a folder.

    Args:
        finalize: what each value is shown as.
        html: what is not marked as safe is escaped for HTML.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=html,
        finalize=finalize,
    )
