"""What is the same in all generated files with a kernel of whatever kind, as text."""

CHECKS = '''\
def _dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype that matrix products have of it, which is autocast's where that is on."""
    device = tensor.device.type
    if device == "meta" or tensor.dtype == torch.float64:
        return tensor.dtype
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def _is_transformed(*tensors: torch.Tensor) -> bool:
    """Whether torch.func or forward-mode differentiation asks, which operators refuse."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    duals = [torch.autograd.forward_ad.unpack_dual(t) for t in tensors]
    return any(dual.tangent is not None for dual in duals)
'''
