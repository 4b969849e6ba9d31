"""Hide-and-Seek (HaS): cells of the training images are hidden, so that no single part of an object is always there."""

from wsolkit.common.parameters import parameter
from wsolkit.methods.cam import trained_cam
from wsolkit.methods.context import Tensor
from wsolkit.methods.registry import table
from wsolkit.training.recipe import Objective


class HaS(Objective):
    """Every cell of a grid is set to 0 (the mean colour, as images are normalised) with probability `rate`, for each
    image and cell on its own. Evaluation sees whole images.

    Args:
        grid: side of a cell as a share of the image's side, in (0, 1]; rounded to pixels, at least one. Cells start in
            the upper left corner, and where they do not divide the side, the last ones are smaller. The authors' code
            draws from cells of 16, 32, 44 and 56 pixels at 224 (or hides nothing); the default here is always 44/224.
            wsolevaluation searched for its values, and its command line's default (4 pixels) is not said to be one.
        rate: probability in [0, 1]; 0.5 in the authors' code and in wsolevaluation's.

    Source: Singh and Lee, "Hide-and-Seek: Forcing a Network to be Meticulous for Weakly-supervised Object and Action
    Localization", ICCV 2017.
    """

    name = "has"
    grid: float = parameter(44 / 224, "a cell's share of the image's side", gt=0, le=1)
    rate: float = parameter(0.5, "the probability of a cell", ge=0, le=1)

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        height, width = images.shape[-2:]
        sides = [max(1, round(self.grid * side)) for side in (height, width)]
        rows, columns = (-(-side // cell) for side, cell in zip((height, width), sides, strict=True))
        hidden = (torch.rand(len(images), rows, columns) < self.rate).to(images.device)
        hidden = hidden.repeat_interleave(sides[0], 1).repeat_interleave(sides[1], 2)[:, :height, :width]
        return images.clone().masked_fill_(hidden[:, None], 0.0), labels


trained_cam(
    HaS,
    "HaS",
    "Hide-and-Seek: CAM on a network trained with hidden cells",
    published=table(vgg16=63.7, resnet50=64.7, inception_v3=53.4),
    differs="cells of one size, values not searched",
)
