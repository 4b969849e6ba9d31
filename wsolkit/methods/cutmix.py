"""CutMix: a patch of another image is pasted in, and the loss asks for both classes in proportion to their areas."""

from typing import Any

from wsolkit.common.parameters import parameter
from wsolkit.methods.cam import trained_cam
from wsolkit.methods.context import Module, Tensor
from wsolkit.methods.registry import LIST, Published, table
from wsolkit.training.recipe import Criterion, Objective


class CutMix(Objective):
    """With probability `prob` a batch is mixed: lambda ~ Beta(beta, beta), a square of side int(L sqrt(1 - lambda))
    around a uniform centre, clipped at the borders, comes from the same place of the image's partner in a permuted
    batch. lambda becomes 1 - (area of the patch) / L^2, and the loss lambda CE(label) + (1 - lambda) CE(partner's).

    One square and one lambda for a whole batch, as in the authors' code. That code halves the side in whole numbers, so
    its odd sides lose one pixel; here the side is kept.

    Args:
        beta: of the Beta distribution, above 0; 1.0 (all shares alike) in the paper and in wsolevaluation's code.
        prob: in [0, 1]; 1.0 in wsolevaluation's code and the authors' ImageNet command (0.5 in their CIFAR command).

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV
    2019.
    """

    name = "cutmix"
    beta: float = parameter(1.0, "of a Beta distribution", gt=0)
    prob: float = parameter(1.0, "the probability of a batch", ge=0, le=1)

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, float]]:
        """Mixed images, and (labels, labels of the partners, share of the image that is its own)."""
        import torch

        if float(torch.rand(())) >= self.prob:
            return images, (labels, labels, 1.0)
        height, width = images.shape[-2:]
        share = float(torch.distributions.Beta(self.beta, self.beta).sample())
        centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
        y0, y1, x0, x1 = patch(height, width, share, centre)
        partner = torch.randperm(len(images)).to(images.device)
        mixed = images.clone()
        mixed[:, :, y0:y1, x0:x1] = images[partner, :, y0:y1, x0:x1]
        return mixed, (labels, labels[partner], 1.0 - (y1 - y0) * (x1 - x0) / (height * width))

    def loss(self, model: Module, images: Tensor, target: Any, criterion: Criterion) -> tuple[Tensor, Tensor]:
        labels, partners, share = target
        logits = model(images)
        if share == 1.0:
            return criterion(logits, labels), logits
        return share * criterion(logits, labels) + (1.0 - share) * criterion(logits, partners), logits


def patch(height: int, width: int, share: float, centre: tuple[int, int]) -> tuple[int, int, int, int]:
    """The patch (y0, y1, x0, x1), ends excluded, whose sides are those of the image times sqrt(1 - share), clipped."""

    def clipped(side: int, middle: int) -> tuple[int, int]:
        length = int(side * (1.0 - share) ** 0.5)
        start = middle - length // 2
        return max(0, start), min(side, start + length)

    return *clipped(height, centre[0]), *clipped(width, centre[1])


trained_cam(
    CutMix,
    "CutMix",
    "CutMix: CAM on a network trained with patches of other images",
    published=(
        Published("vgg16", LIST, {"top1_loc": 52.5}),
        Published("resnet50", LIST, {"top1_loc": 54.81}),
        *table(vgg16=62.3, resnet50=62.8, inception_v3=57.5),
    ),
    differs="values not searched",
)
