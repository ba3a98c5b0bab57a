"""Names that a factor cannot have, since it becomes an attribute of an nn.Module.

The names of `torch.nn.Module` are listed here and not looked up, so that checking a
spec does not import torch; a test holds the list against the installed torch.
"""

from __future__ import annotations

import keyword

_MODULE = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda
    double dump_patches eval extra_repr float forward get_buffer get_extra_state
    get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers
    named_children named_modules named_parameters parameters
    register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training
    type xpu zero_grad
    """.split()
)

# What the generated modules define or use, or keep free for those that come.
_GENERATED = frozenset(
    """
    weight bias in_features out_features reset_parameters to_dense lr_multipliers
    LR_MULTIPLIERS contract normalized router auxiliary_loss
    routing_statistics experts top route gates chosen device dtype self torch nn
    chunk products gradients KERNEL BLOCKS Ellipsis NoneType
    """.split()
)


def why_refused(name: str) -> str | None:
    """Why a factor cannot be called `name`, as the end of a sentence, or None."""
    if keyword.iskeyword(name):
        return f"`{name}` is a keyword of Python"
    if name in _MODULE:
        return f"every module has a `{name}` already"
    if name in _GENERATED:
        return f"the generated module keeps `{name}` for itself"
    return None
