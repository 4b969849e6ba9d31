"""Synthetic birds: a seeded data set, drawn by code, in which eight species differ in one small part of the head only.

There are two families, barred finches and spotted thrushes, with the same eight species each. Within a family body,
wing, tail, legs, pose, size, position, background and clutter follow the same distribution; the species is the colour
and place of one small part (bill, crest or face mask), and blossoms in the same colours float about. So the family is
written all over the bird, weakly, and the species in one bright spot. A plain CAM lights the spot, while the
ground-truth box is that of the whole bird: the problem that localisation methods are about.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from wsolkit.common.errors import is_whole, require
from wsolkit.data.base import Request, Target, WSOLDataset
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.images import Sample

CANVAS = 128  # side of the drawn image in pixels
PARTS = {  # species -> (part, colour)
    "scarlet-billed": ("bill", (225, 25, 30)),
    "amber-billed": ("bill", (255, 150, 0)),
    "azure-billed": ("bill", (30, 110, 250)),
    "teal-crested": ("crest", (0, 215, 190)),
    "magenta-crested": ("crest", (235, 30, 180)),
    "black-crested": ("crest", (8, 8, 12)),
    "white-masked": ("mask", (250, 250, 250)),
    "violet-masked": ("mask", (120, 30, 215)),
}
FAMILIES = ("finch", "thrush")  # plumage of body, wing and tail: barred, spotted
KINDS = tuple(f"{species} {family}" for family in FAMILIES for species in PARTS)
COLOURS = tuple(colour for _, colour in PARTS.values())
COUNTS = {"train": 120, "val": 12, "test": 25}  # images per class
FLOWERS = (1, 5)  # at least, below: blossoms in part colours, so that a colour alone says nothing
PLAIN_BILL = (96, 88, 80)  # and legs
LEGS = (0.02, 0.14)  # where they begin, in body lengths
# natural body colours: browns, greys, olives, slates
PLUMAGES = np.array([[122, 88, 58], [120, 120, 124], [104, 108, 64], [72, 88, 112], [150, 122, 92]], float)
CREST = np.array([[-0.16, -0.08], [-0.28, -0.3], [-0.1, -0.23], [-0.03, -0.38], [0.06, -0.22], [0.15, -0.06]])
BILL = np.array([[0.12, -0.10], [0.46, 0.03], [0.12, 0.125]])  # both from the middle of the head, in body lengths


class SyntheticBirds(WSOLDataset):
    """See the module; images are drawn when asked for, from (seed, split, index) alone."""

    seed: int = 0

    def load(self, sample: Sample) -> tuple[Image.Image, np.ndarray]:
        _, index, kind = sample.id.split("-")
        drawing = draw_bird(KINDS[int(kind)], _random(self.seed, self.split, int(index)))
        return Image.fromarray(drawing.pixels), drawing.mask

    def target(self, index: int) -> Target:
        sample, side = self.samples[index], self.geometry.side
        mask = Image.fromarray(self.load(sample)[1]).resize((side, side), Image.Resampling.NEAREST)
        shown = torch.from_numpy(self.geometry.crop(np.asarray(mask)).copy())
        return Target(sample.label, self.geometry.boxes(sample.boxes, (CANVAS, CANVAS)), shown, sample.id)


def open_synthetic(asked: Request, per_class: int | dict[str, int] | None = None) -> SyntheticBirds:
    """Build one split. `per_class` overrides the number of images per class (120 train, 12 val, 25 test)."""
    classes, label_of = asked.select(KINDS)
    given = per_class.get(asked.split) if isinstance(per_class, dict) else per_class
    count: Any = COUNTS[asked.split] if given is None else given
    told = "per_class is the number of images of each class and must be a whole number of at least 1"
    require(is_whole(count, 1), f"{told}, but is {count!r}")
    samples = []
    for index, (kind, label) in enumerate(list(label_of.items()) * count):
        box = draw_bird(KINDS[kind], _random(asked.seed, asked.split, index)).box
        samples.append(Sample(f"{asked.split}-{index:05d}-{kind}", label, (box,)))
    dataset = SyntheticBirds("synthetic", asked.split, classes, samples, asked.geometry)
    dataset.seed = asked.seed
    return dataset


def _random(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index])


class Shape(NamedTuple):
    """A filled polygon (n, 2) with its colour; a mark is drawn only where the bird already is."""

    points: np.ndarray
    colour: tuple[float, ...]
    mark: bool = False


class Drawing(NamedTuple):
    """pixels (128, 128, 3) uint8 RGB; mask (128, 128) uint8, 1 on the bird; box: its inclusive x0, y0, x1, y1."""

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int]


def draw_bird(kind: str, rng: np.random.Generator) -> Drawing:
    """Draw one bird of class `kind` on a random background. The random numbers used do not depend on the class."""
    species, family = kind.split(" ")
    part, part_colour = PARTS[species]
    scale = 2  # drawn at twice the size and averaged down: smooth edges
    side = CANVAS * scale
    image = _background(side, rng)
    plumage = PLUMAGES[rng.integers(5)] * rng.uniform(0.95, 1.4) + rng.normal(0, 8, 3)  # alike for every class
    shapes, reach = _bird_shapes(np.clip(plumage, 40, 215).tolist(), family, part, part_colour, rng)

    # pose: size, tilt, direction, then a place where the whole bird fits
    length = side * rng.uniform(0.26, 0.50)
    angle = np.deg2rad(rng.uniform(-28, 28))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    placed = [shape._replace(points=(shape.points * [flip, 1.0]) @ turn.T * length) for shape in shapes]
    # room for a crest is kept whether there is one or not: size and place of a bird say nothing about its class
    outline = [shape.points for shape in placed if not shape.mark]
    every = np.concatenate([*outline, (reach * [flip, 1.0]) @ turn.T * length])
    low, high = every.min(axis=0), every.max(axis=0)
    if (extent := float((high - low).max())) > 0.94 * side:
        shrink = 0.94 * side / extent
        placed = [shape._replace(points=shape.points * shrink) for shape in placed]
        low, high = low * shrink, high * shrink
    margin = 0.02 * side
    shift = margin - low + rng.random(2) * (side - 2 * margin - (high - low))

    silhouette = np.zeros((side, side), np.uint8)
    for mark, group in groupby(placed, key=lambda shape: shape.mark):
        canvas = image.copy() if mark else image
        for shape in group:
            _fill(canvas, shape.points + shift, shape.colour)
            if not mark:
                _fill(silhouette, shape.points + shift, 1, cv2.LINE_8)
        if mark:  # plumage marks end where the bird ends
            image[silhouette > 0] = canvas[silhouette > 0]
    if rng.random() < 0.3:  # a thin twig crosses in front of the bird
        _twig(image, rng, side)
    pixels = cv2.resize(image, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA)
    light = rng.uniform(0.8, 1.15)
    noise = rng.normal(0, 4, pixels.shape)
    pixels = np.clip(pixels * light + noise, 0, 255).astype(np.uint8)
    mask = (cv2.resize(silhouette * 255, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA) >= 128).astype(np.uint8)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Drawing(pixels, mask, (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])))


def _fill(image, points, colour, line=cv2.LINE_AA):
    """Fill a polygon (n, 2), to a sixteenth of a pixel."""
    cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], colour, line, shift=4)


def _ellipse(x, y, a, b, angle=0.0):
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    px, py = a * np.cos(t), b * np.sin(t)
    return np.stack([x + c * px - s * py, y + s * px + c * py], axis=1)


def _bird_shapes(body, family, part, part_colour, rng):
    """Shapes, back to front, in body lengths (the bird looks to +x, y grows downwards), and the reach of its parts."""
    dark = _shade(body, 0.72)
    plump = rng.uniform(0.23, 0.31)
    tail = rng.uniform(0.30, 0.48)
    head = np.array([rng.uniform(0.44, 0.52), rng.uniform(-0.30, -0.22)])
    legs = rng.uniform(0.12, 0.22)
    wing = rng.uniform(-14, 22)
    top, foot = plump - 0.06, plump + legs
    quill = np.array([[-0.36, -0.08], [-0.48 - tail, 0.02], [-0.46 - tail, 0.14], [-0.30, 0.12]])
    shapes = [
        Shape(quill, dark),
        *(Shape(np.array([[x, top], [x + 0.03, foot], [x + 0.07, foot], [x + 0.05, top]]), PLAIN_BILL) for x in LEGS),
        Shape(_ellipse(0, 0, 0.48, plump), body),
        Shape(_ellipse(0.34, -0.13, 0.20, 0.16, -40), body),
        Shape(_ellipse(-0.08, -0.02, 0.32, plump * 0.58, wing), dark),
        *_plumage_marks(family, _shade(body, 0.38), plump, tail, rng),
    ]
    crest, bill = head + CREST, head + BILL
    shapes += [Shape(crest, part_colour)] if part == "crest" else []
    shapes += [Shape(head + _ellipse(0, 0, 0.185, 0.165), body)]
    shapes += [Shape(bill, part_colour if part == "bill" else PLAIN_BILL)]
    shapes += [Shape(head + _ellipse(0.035, 0, 0.145, 0.11), part_colour)] if part == "mask" else []
    shapes += [Shape(head + _ellipse(0.055, -0.02, 0.03, 0.03), (15, 15, 15))]
    return shapes, np.concatenate([crest, bill])


def _plumage_marks(family, colour, plump, tail, rng):
    """Upright bars on finches, round spots on thrushes, all over body, wing and tail, with the same random numbers."""
    start, lean = rng.uniform(-0.02, 0.02), rng.uniform(0.02, 0.06)
    marks = []
    for x in np.arange(-0.36 - tail, 0.40, 0.18) + start:
        half, middle = (0.08, 0.06) if x < -0.44 else (0.86 * plump * np.sqrt(max(0.05, 1 - (x / 0.5) ** 2)), 0.0)
        top, bottom = middle - half, middle + half
        if family == "finch":
            bar = np.array([[x, top], [x + 0.085, top], [x + 0.085 + lean, bottom], [x + lean, bottom]])
            marks.append(Shape(bar, colour, mark=True))
        else:
            for y in np.arange(top + 0.06, bottom, 0.18):
                marks.append(Shape(_ellipse(x + 0.04, y, 0.06, 0.06), colour, mark=True))
    return marks


def _shade(colour, factor):
    return tuple(float(np.clip(channel * factor, 0, 255)) for channel in colour)


def _background(side, rng):
    """Sky or foliage: a smooth gradient, blurred patches, leaves, twigs and stones."""
    palette = np.array([[150, 185, 215], [120, 150, 95], [170, 165, 135], [95, 125, 80], [185, 190, 185]], float)
    corners = palette[rng.integers(len(palette), size=4)] * rng.uniform(0.75, 1.1) + rng.normal(0, 10, (4, 3))
    image = cv2.resize(corners.reshape(2, 2, 3).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    patches = rng.normal(0, 16, (9, 9, 1)) + rng.normal(0, 5, (9, 9, 3))
    image += cv2.resize(patches.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
    for _ in range(rng.integers(5, 12)):
        x, y = rng.random(2) * side
        a, b = side * rng.uniform(0.02, 0.09), side * rng.uniform(0.012, 0.045)
        colour = _shade(palette[rng.integers(len(palette))], rng.uniform(0.5, 1.0))
        _fill(image, _ellipse(x, y, a, b, rng.uniform(0, 180)), colour)
    for _ in range(rng.integers(1, 5)):
        _twig(image, rng, side)
    for _ in range(rng.integers(*FLOWERS)):
        x, y = rng.random(2) * side
        colour = _shade(COLOURS[rng.integers(len(COLOURS))], rng.uniform(0.9, 1.05))
        _fill(image, _ellipse(x, y, side * rng.uniform(0.02, 0.035), side * rng.uniform(0.02, 0.035)), colour)
    return image


def _twig(image, rng, side):
    ends = np.round(rng.uniform(-0.1, 1.1, (2, 2)) * side).astype(int)
    colour = _shade((98, 78, 56), rng.uniform(0.6, 1.3))
    cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, int(rng.integers(2, 7)), cv2.LINE_AA)
