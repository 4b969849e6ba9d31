"""ShapleyCAM: Grad-CAM with a second-order correction of the gradient."""

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import register


@register("shapley_cam", "gradient", "grad_cam with a second-order correction of the gradient", label="ShapleyCAM")
def shapley_cam(context: Context) -> Tensor:
    """w[c] = mean_hw(G - H A / 2), H the Hessian of the class score. Cai, 2025."""
    import torch

    leaf, gradients = context.differentiate(create_graph=True)
    if gradients.requires_grad:  # else the rest is linear: no second derivative, and nothing for autograd to follow
        (product,) = torch.autograd.grad(gradients, leaf, grad_outputs=leaf.detach(), allow_unused=True)
        gradients = gradients if product is None else gradients - product / 2
    return gradients.detach().mean(dim=(2, 3))
