"""The Oxford-IIIT Pet dataset (Parkhi et al., CVPR 2012), in the layout of torchvision.datasets.OxfordIIITPet."""

from __future__ import annotations

from functools import partial

from wsolkit.common.errors import require
from wsolkit.common.files import listing
from wsolkit.data.base import Request, WSOLDataset
from wsolkit.data.images import MaskFiles, Sample
from wsolkit.data.readers import MEND, columns, find_root, inside, read_table, refuse_other_masks, require_images, whole

PET, NEITHER = 1, 3  # grey levels of a trimap; 2 is background


def open_oxford_pets(asked: Request) -> WSOLDataset:
    """Open one split of an oxford-iiit-pet folder, given itself or its parent.

    The trimap of an image says which pixels are the pet, which the background, and which neither: these, a band along
    the outline that the data set's README calls not classified, are ignored by PxAP. The box is that of the pet without
    them. "test" is the official split; "val" is a share of the official training images that depends on `seed` and
    `val_share` alone, "train" the rest of them. The classes are the breeds, with the names and order of torchvision.

    Args:
        asked: as in `load_dataset`; classes by name ("American Bulldog").

    Raises:
        WsolkitError: naming the file and its lines, or the argument; also trimaps of another shape than their images.
        FileNotFoundError: the folder, one of its files, some of the images or of their trimaps are missing.
    """
    root = find_root(asked.root, "oxford_pets")
    line, form = partial(columns, inside, whole, whole, whole, separator=None), "lines 'name class species breed'"
    tables = {part: root / "annotations" / f"{part}.txt" for part in ("trainval", "test")}
    labels = {
        part: {name: numbers[0] for name, numbers in read_table(path, line(), form).items()}
        for part, path in tables.items()
    }
    breeds: dict[int, set[str]] = {}
    for name, number in [item for own in labels.values() for item in own.items()]:
        breeds.setdefault(number, set()).add(name.rpartition("_")[0].replace("_", " ").title())
    mixed = [f"{number} ({listing(sorted(own))})" for number, own in sorted(breeds.items()) if len(own) > 1]
    require(not mixed, f"{root / 'annotations'}: classes with images of several breeds: {listing(mixed)}; {MEND}")
    numbers = sorted(breeds)
    classes, label_of = asked.select([min(breeds[number]) for number in numbers])
    part = "test" if asked.split == "test" else "trainval"
    names = list(labels[part])
    if part != "test":
        names = [names[place] for place in asked.own(list(labels[part].values()))]
    chosen = {name: label for name in names if (label := label_of.get(numbers.index(labels[part][name]))) is not None}
    images, trimaps = root / "images", root / "annotations" / "trimaps"
    require_images(images, (f"{name}.jpg" for name in chosen))
    require_images(trimaps, (f"{name}.png" for name in chosen))
    masks = {f"{name}.jpg": MaskFiles((f"{name}.png",), f"{name}.png", trimaps, (PET, NEITHER)) for name in chosen}
    if asked.split != "train":
        refuse_other_masks(tables[part], masks, trimaps, images)
    files = zip(masks.items(), chosen.values(), strict=True)
    samples = [Sample(name, label, (), images / name, masks=own) for (name, own), label in files]
    return WSOLDataset("oxford_pets", asked.split, classes, samples, asked.geometry)
