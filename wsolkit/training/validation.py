"""Loss and accuracy of a classifier on a whole split."""

from __future__ import annotations

import torch
from torch.nn import functional

from wsolkit.common.processes import share, total
from wsolkit.data.base import WSOLDataset
from wsolkit.networks.models import WSOLModel


@torch.inference_mode()
def classify(
    model: WSOLModel, dataset: WSOLDataset, batch_size: int = 64, precision: str = "float32"
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and Top-1 Cls (percent) of `model` on the whole of `dataset`.

    Inside a process group every process must call it: each looks at its share and gets the numbers of the whole.
    """
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    mine, answers = share(len(dataset)), torch.from_numpy(dataset.labels)
    for start in range(mine.start, mine.stop, batch_size):
        indices = range(start, min(start + batch_size, mine.stop))
        labels = answers[start : indices.stop].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(dataset.images(indices, device))
        sums[0] += functional.cross_entropy(logits.float(), labels, reduction="sum").double()
        sums[1] += (logits.argmax(1) == labels).sum()
    loss, right = total(sums).tolist()
    return loss / len(dataset), 100.0 * right / len(dataset)
