"""`wsolkit backbones`: the networks that there are, and what is defined on them."""

from __future__ import annotations

import click

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.registry import METHODS, is_defined, plain_variant
from wsolkit.networks.backbones import TIMM, family, matching

MANY = 40  # networks, of which names alone are listed: of each of timm's a copy without numbers is made


@click.command()
@click.argument("pattern", default="*")
def backbones(pattern: str) -> None:
    """List the networks that fit PATTERN, such as 'timm:*vit*tiny*', with strides and image sides.

    Without a pattern these are the kit's own. Each line also names the methods that are not defined on the network.
    """
    names = matching(pattern)
    for name in names:
        click.echo(name if len(names) > MANY else _described(name))
    if len(names) > MANY:
        click.echo(f"{len(names)} networks; of {MANY} or fewer, strides and image sides are told too")
    elif not pattern.startswith(TIMM):
        click.echo(f"timm's networks, where timm is installed: wsolkit backbones '{TIMM}*'")


def _described(name: str) -> str:
    import torch

    from wsolkit.networks.models import build_model

    try:
        known = family(name)
    except WsolkitError as error:  # not every network of timm has a feature map
        return f"{name}  cannot be used: {error}"
    with torch.device("meta"):  # no numbers are computed
        plain = build_model(name, 2, weights="none")
    lacking = [
        method
        for method, entry in METHODS.items()
        if entry.undefined(name)
        or (entry.variants_on(name)[0] == plain_variant(name) and not is_defined(method, plain)[0])
    ]
    strides, side = ", ".join(map(str, known.strides)), f"{known.size} px" if known.size else "any"
    return f"{name}  strides {strides}; images {side}; not defined: {', '.join(lacking) or 'none'}"
