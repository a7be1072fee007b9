# SPDX-License-Identifier: Apache-2.0
"""What a packed layer hands to the model in place of its keys and values.

With attn_implementation="polarquant" a cache layer does not decode anything: `update` returns the
new tokens as `Linked` tensors, which carry the way back to the layer. Only our attention function
may read them. Any other arithmetic on them would attend to the new tokens alone and answer wrongly
without a sign, so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from polarquant.errors import HostError

# They say what a tensor is, or hand it on as it is.
_FACTS = {
    "__get__", "size", "dim", "ndimension", "stride", "numel", "nelement", "element_size",
    "is_contiguous", "is_floating_point", "get_device", "storage_offset", "__len__", "data_ptr",
}  # fmt: skip
_COPIES = {"contiguous", "to", "detach", "clone"}


@dataclass
class Step:
    """One update of a layer: the new tokens, [batch, num_kv_heads, n, head_dim]."""

    layer: Any  # the PolarQuantLayer that is updated, which imports this file
    keys: torch.Tensor
    values: torch.Tensor
    before: int  # tokens in the layer before the update
    sources: tuple[torch.Tensor, ...] = ()  # the model's own, where they want a gradient
    stored: bool = False  # whether the layer has taken them over
    observed: list[int] | None = None  # what each row had observed before
    positions: torch.Tensor | None = None  # RoPE's, [batch or 1, n], if the model says them

    @property
    def after(self) -> int:
        return self.before + self.keys.shape[-2]


class Linked(torch.Tensor):
    """The new tokens of a `Step`; `step` leads to the layer that holds the others."""

    step: Step

    @staticmethod
    def of(tensor: torch.Tensor, step: Step) -> Linked:
        linked = tensor.as_subclass(Linked)
        linked.step = step
        return linked

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {})) if name in _FACTS | _COPIES else None
        if name in _FACTS and not isinstance(result, torch.Tensor):
            return result
        self = args[0] if args else None
        if (
            name in _COPIES
            and isinstance(self, Linked)
            and (result.dtype, result.device) == (self.dtype, self.device)
        ):
            return self
        for each in (*args, *(kwargs or {}).values()):
            for tensor in each if isinstance(each, (list, tuple)) else [each]:
                if isinstance(tensor, Linked):
                    tensor.step.layer.abandon(tensor.step)
        raise HostError(
            f"something other than polarquant's attention function wants to compute with packed "
            f"keys or values ({name or func}): the cache was made with a config whose attention "
            f"is 'polarquant', but this layer of the model does not use it; call "
            f"model.set_attn_implementation('polarquant') on the model itself and make the cache "
            f"from model.config. Some architectures (latent attention, differences of attentions) "
            f"compute with cached keys themselves, and so does torch.compile: use 'sdpa' or "
            f"'eager' there, which work with the same cache"
        )

    def __deepcopy__(self, memo: Any) -> Linked:
        return self  # lives for one forward pass only

    def __repr__(self, *_: Any, **__: Any) -> str:
        return "Linked(keys or values of a polarquant cache, packed)"


def step_of(tensor: torch.Tensor) -> Step | None:
    """The update that `tensor` stands for; None for a plain tensor."""
    return tensor.step if isinstance(tensor, Linked) else None


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: torch.Tensor, _source: torch.Tensor) -> torch.Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        raise HostError(
            "a compressed cache has no gradient: train without a cache, or with DynamicCache"
        )


def without_gradient(result: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
    """`result`; calling backward through it raises if one of `sources` asked for a gradient."""
    if torch.is_grad_enabled():
        for source in sources:
            if source.requires_grad:
                return _NoGradient.apply(result, source)
    return result
