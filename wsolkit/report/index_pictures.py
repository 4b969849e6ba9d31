"""The same test images under every method: thumbnails for the index page, as many as a number of bytes allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from wsolkit.report.index_groups import Group

MOST = 8  # images


def same_images(groups: Sequence[Group], budget: int) -> dict[str, Any] | None:
    """Rows of thumbnails (image x method) of the groups of one backbone, as many as fit `budget` bytes of base64.

    Every method is shown by its first seed's run. {"backbone", "seed" (of the shown runs, None where they differ),
    "methods", "lines": [{"id", "cells": [{"uri", "alt", "caption", "method", "report"} or None]}], "left_out": how many
    images did not fit, "bytes"}; None where no run has a picture.
    """
    members = [next((row for row in group.done if row["gallery"]), None) for group in groups]
    rows = [row for row in members if row is not None]
    if not rows:
        return None
    longest = max(rows, key=lambda row: len(row["gallery"]))["gallery"][:MOST]
    lines, used = [], 0
    for entry in longest:
        cells = [_cell(row, entry) for row in rows]
        size = sum(len(cell["uri"]) for cell in cells if cell)
        if used + size > budget:
            break
        used += size
        if any(cells):
            lines.append({"id": shortened(entry["id"]), "cells": cells})
    seeds = {row["seed"] for row in rows}
    return {
        "backbone": groups[0].backbone,
        "seed": seeds.pop() if len(seeds) == 1 else None,
        "methods": [row["method"] for row in rows],
        "lines": lines,
        "left_out": len(longest) - len(lines),
        "bytes": used,
    }


def _cell(row: dict, entry: dict) -> dict[str, Any] | None:
    """One thumbnail; None where the run has no such picture, or one that cannot be read."""
    found = next((item for item in row["gallery"] if item["id"] == entry["id"]), None)
    if found is None or found["path"] is None:
        return None
    try:
        data = found["path"].read_bytes()
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            image.load()  # a picture that was cut off would be a gap on the page
            kind = image.format.lower()
    except (OSError, SyntaxError):
        return None
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    alt = f"{shortened(entry['id'])} under {row['method']} on {row['backbone']}. {found['caption']}"
    return {"uri": uri, "alt": alt, "caption": found["caption"], "method": row["method"], "report": row["report"]}


def shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most // 2 - 1] + " … " + text[-most // 2 + 2 :]
