"""TS-CAM: a vision transformer whose patches, not its class token, decide on the class. Gao et al., ICCV 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from wsolkit.common.errors import WsolkitError
from wsolkit.networks.pooling import GlobalAveragePool


class PatchTokens(nn.Module):
    """(B, 3, S, S) -> (B, D, n, n): the patches of a torchvision ViT after its last layer norm."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.image_size = vit.image_size
        self.conv_proj, self.class_token, self.encoder = vit.conv_proj, vit.class_token, vit.encoder

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = "x".join(map(str, images.shape[-2:]))
            raise WsolkitError(f"this network takes images of {self.image_size}x{self.image_size} px, not {size}")
        patches = self.conv_proj(images)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return self.encoder(tokens)[:, 1:].transpose(1, 2).reshape(patches.shape)


class TSCAM(nn.Module):
    """A classifier in three parts, as `WSOLModel`: logits are the means of K class maps over the patches.

    The class token is never asked for a class. It takes part in the attention alone, from which the method "ts_cam"
    reads where to look.

    Attributes:
        body: `PatchTokens`. head: 3x3 convolution from D channels to K maps. pool: their mean. rest: head and pool.
        has_cam: False, as the head is a convolution. spec: the arguments that rebuild it with `rebuild(**spec)`.
    """

    backbone, pooling, has_cam, new_parts = "ts_cam", "ts_cam", False, ("head",)

    def __init__(self, vit: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = PatchTokens(vit)
        self.head = nn.Conv2d(vit.hidden_dim, num_classes, 3, padding=1)
        self.pool = GlobalAveragePool()
        self.spec = {
            "backbone": self.backbone,
            "num_classes": num_classes,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
            "num_layers": len(vit.encoder.layers),
            "num_heads": vit.encoder.layers[0].num_heads,
            "hidden_dim": vit.hidden_dim,
            "mlp_dim": vit.mlp_dim,
        }

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(self.head, self.pool)

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.head(self.body(images)))

    def is_new(self, parameter_name: str) -> bool:
        """Whether a parameter belongs to the head, the one layer that no pretrained ViT has."""
        return parameter_name.startswith("head.")


def ts_cam(vit: VisionTransformer, num_classes: int, seed: int = 0) -> TSCAM:
    """A TS-CAM network on a ViT of torchvision, to be trained with `wsolkit.fit` and looked at with method "ts_cam".

    Args:
        vit: with the weights to start from; its layers are used, not copied, and its own head is left aside.
        num_classes: K, at least 2.
        seed: of the new convolution; the global random state is left as it was.

    Raises:
        ValueError: no VisionTransformer of torchvision, one with a convolutional stem, or fewer than two classes.
    """
    if not isinstance(vit, VisionTransformer) or not isinstance(vit.conv_proj, nn.Conv2d):
        raise WsolkitError(
            f"ts_cam takes a VisionTransformer of torchvision with one patch embedding, not {_kind(vit)}"
        )
    if num_classes < 2:
        raise WsolkitError(f"num_classes must be at least 2, but is {num_classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TSCAM(vit, num_classes).to(vit.conv_proj.weight)


def rebuild(backbone: str, num_classes: int, **vit) -> TSCAM:
    """The network of a `spec`, with random weights, for a checkpoint to be loaded into."""
    with torch.random.fork_rng(devices=[]):
        return ts_cam(VisionTransformer(**vit), num_classes)


def _kind(vit: object) -> str:
    return type(vit).__name__ + (" with a convolutional stem" if isinstance(vit, VisionTransformer) else "")
