"""Attention that can be differentiated twice.

The fused kernels behind ``F.scaled_dot_product_attention`` have a gradient, but no gradient of the gradient: a
meta-gradient or a gradient-matching loss through a vision transformer fails with
``derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented``.
"""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel


def math_attention() -> AbstractContextManager[None]:
    """Compute attention by plain operations while the context is open.

    Only the forward pass must run inside; it is slower and keeps the ``(B, H, N, N)`` weights in memory.

    Example:
        >>> with math_attention():
        ...     loss = criterion(model(images), labels)
        >>> first, = torch.autograd.grad(loss, weight, create_graph=True)
        >>> second, = torch.autograd.grad(first.square().sum(), weight)

    Returns:
        The context.
    """
    return sdpa_kernel(SDPBackend.MATH)
