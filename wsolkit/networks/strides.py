"""Strides that a feature map can have. No torch here: a sweep plans with it."""

BACKBONE_STRIDES = {  # strides a feature map can have; the first is the published one
    "vgg16": (16, 8), "resnet50": (16, 8, 32), "resnet18": (16, 8, 32), "mobilenet_v2": (16, 32),
    "convnext_tiny": (16, 32), "vgg16_fc": (16,),
}  # fmt: skip
