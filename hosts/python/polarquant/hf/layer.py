# SPDX-License-Identifier: Apache-2.0
"""One layer of the cache: a polarquant sequence cache for each row of the batch.

The same class serves transformers 4.57 and 5.x, whose contracts differ in arguments only.

Rows are appended as the model makes them, in 16 bit, and closed into codes a page at a time after
attention has read them. Old tokens are never coded again. Tensors are [batch, num_kv_heads, tokens,
head_dim].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers.cache_utils import CacheLayerMixin

from polarquant import _core
from polarquant.errors import ParameterError, UnsupportedError
from polarquant.hf.balance import REMEDIES, Frozen, Observed, Profile, learnt
from polarquant.hf.links import Linked, Step, without_gradient
from polarquant.hf.rope import INSTEAD, Rope

# In 4.57 crop(0) empties, in 5.x it removes nothing.
CROP_COUNTS = int(transformers.__version__.split(".")[0]) >= 5
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Setup:
    """What all rows of a layer have in common."""

    layer: int  # its number in the model
    key: str  # schemes
    value: str
    page_tokens: int
    window_tokens: int
    sink_tokens: int
    profile: Profile | Frozen | None
    # Other layers attend to this one's keys later in the same step.
    shared: bool
    # How RoPE turns keys of a layer with a head_dim; the last argument asks for frequencies.
    rope: Callable[[int, int, bool], Rope]
    # Whether the model's attention is ours, so that nothing need be decoded.
    packed: Callable[[], bool]
    threads: Callable[[], int]


@dataclass
class Row:
    """One sequence. The `pad` tokens of padding on its left are not kept at all."""

    cache: _core.SequenceCache
    pad: int = 0
    start: int = 0  # RoPE's position of its first token, where that matters
    observed: Observed = field(default_factory=Observed)

    def fork(self) -> Row:
        return Row(self.cache.fork(), self.pad, self.start, self.observed.copy())


class PolarQuantLayer(CacheLayerMixin):
    """Keys and values of one full-attention layer, compressed."""

    is_compileable = False
    is_croppable = True
    is_sliding = False

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.take(setup)
        self.rows: list[Row] = []
        self.length = 0  # tokens with padding, without those of an update under way
        self.dtype: torch.dtype | None = None
        self.device = torch.device("cpu")
        # What keys are coded with, of rows that start at position 0.
        self.profile: _core.KeyProfile | None = None
        self._step: Step | None = None
        self._unsettled = False

    def take(self, setup: Setup) -> None:
        """Makes it the layer's own."""
        self.setup = setup
        parts = _core.scheme_parts(setup.key)
        self.steps, self.sharpens = bool(parts["step"]), parts["sharpen"] != 100
        self.needs_profile = self.steps or bool(parts["balance"])
        self._ropes: dict[int, Rope] = {}  # by head_dim: every step asks

    # -- the contract ---------------------------------------------------------------------------

    def lazy_initialization(
        self, key_states: torch.Tensor, value_states: torch.Tensor | None = None
    ) -> None:
        values = key_states if value_states is None else value_states
        batch, heads, _, head_dim = key_states.shape
        setup = self.setup
        if self.needs_profile and self.profile is None and setup.profile is not None:
            self.profile = setup.profile.of(
                setup.layer, heads, head_dim, setup.key, self._rope(head_dim)
            )
        self.dtype = key_states.dtype
        self.rows = [Row(self._empty(heads, head_dim, values.shape[-1])) for _ in range(batch)]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the new tokens. Returns all keys and values, decoded; or, where the model's
        attention is ours, stand-ins for the new ones that only it can read."""
        self.flush()
        self._check(key_states, value_states)
        if not self.is_initialized or (self.length == 0 and len(self.rows) != len(key_states)):
            self.lazy_initialization(key_states, value_states)
        sources = tuple(each for each in (key_states, value_states) if each.requires_grad)
        step = Step(self, key_states.detach(), value_states.detach(), self.length, sources)
        if self.setup.packed():
            self._step = step
            return Linked.of(key_states, step), Linked.of(value_states, step)
        if self.sharpens and self.length > 0:
            raise UnsupportedError(
                f"keys of layer {self.setup.layer} are {self.setup.key}, and decoded keys are not "
                f"sharpened: use model.set_attn_implementation('polarquant')"
            )
        keys = self._decoded("key", key_states)
        values = self._decoded("value", value_states)
        try:
            self.store(step, [0] * len(self.rows))
            self.settle()
        except BaseException:
            self.abandon(step)
            raise
        return keys, values

    def get_seq_length(self) -> int:
        return self._step.after if self._step else self.length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(length, offset) of the keys a mask must cover. Takes a count (5.x) or the positions of
        the queries (4.57)."""
        if isinstance(query_length, torch.Tensor) and query_length.ndim > 0:
            query_length = query_length.shape[0]
        return self.get_seq_length() + int(query_length), 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        if not self.is_initialized:
            raise AttributeError("batch_size: the layer is empty")
        return len(self.rows)

    @property
    def keys(self) -> torch.Tensor | None:
        """All keys, decoded; None in an empty layer."""
        return self._all("key")

    @keys.setter
    def keys(self, value: None) -> None:
        self._refuse_tensor(value)

    @property
    def values(self) -> torch.Tensor | None:
        """All values, decoded; None in an empty layer."""
        return self._all("value")

    @values.setter
    def values(self, value: None) -> None:
        self._refuse_tensor(value)

    def offload(self) -> None:
        raise UnsupportedError(
            "a PolarQuantCache is not offloaded: it lies in the memory of the CPU already"
        )

    prefetch = offload

    def reset(self) -> None:
        """Empties the layer. What was learnt from the prompt is forgotten with it."""
        self._step, self._unsettled = None, False
        self.rows, self.length, self.is_initialized, self.profile = [], 0, False, None

    def crop(self, tokens: int) -> None:
        """Negative: removes that many of the newest tokens. Positive: keeps that many of the
        oldest. Zero: what the transformers installed means by it."""
        self.flush()
        tokens = int(tokens)
        if tokens < 0:
            length = max(self.length + tokens, 0)
        else:
            length = self.length if tokens == 0 and CROP_COUNTS else min(tokens, self.length)
        for row in self.rows:
            row.observed.drop(self.length - length)
            row.pad = min(row.pad, length)
            row.cache.truncate(length - row.pad)
        self.length = length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Row i becomes a fork of row indices[i]; forks share their pages."""
        self.flush()
        if not self.is_initialized:
            return
        indices = torch.as_tensor(indices)
        if indices.dtype == torch.bool:
            indices = indices.nonzero().flatten()
        self._select([range(len(self.rows))[int(i)] for i in indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.flush()
        self._select([i for i in range(len(self.rows)) for _ in range(int(repeats))])

    def __deepcopy__(self, memo: Any) -> PolarQuantLayer:
        self.flush()
        other = type(self)(self.setup)
        other.rows = [row.fork() for row in self.rows]
        for name in ("length", "dtype", "profile", "is_initialized"):
            setattr(other, name, getattr(self, name))
        return other

    # -- for our attention function ---------------------------------------------------------------

    def caches(self) -> list[_core.SequenceCache]:
        """Of the rows, in their order."""
        return [row.cache for row in self.rows]

    def store(self, step: Step, skip: list[int], positions: torch.Tensor | None = None) -> None:
        """Appends the tokens of `step`; of row b the first skip[b] are padding and not kept.
        `positions` are RoPE's, [batch or 1, n], where they are known."""
        self._place(step, skip, positions)
        for row, first in zip(self.rows, skip, strict=True):
            row.pad += first
        _core.append_batch(
            self.caches(), _rows(step.keys), _rows(step.values), skip, self.setup.threads()
        )
        self.length = step.after
        step.stored = True
        self._step = None

    def abandon(self, step: Step) -> None:
        """Forgets a step that failed: the layer is as it was before the update."""
        if self._step is step:
            self._step = None
        for i, row in enumerate(self.rows):
            row.pad = min(row.pad, step.before)
            row.cache.truncate(min(row.cache.length, step.before - row.pad))
            if step.observed is not None:
                row.observed.drop(row.observed.count - step.observed[i])
        self.length = step.before

    def observe(self, query: torch.Tensor, step: Step, skip: list[int]) -> None:
        """Looks at queries [batch, num_q_heads, n, head_dim] until the profile is known."""
        if not self.needs_profile or self.profile is not None:
            return
        most = self.setup.page_tokens
        step.observed = [row.observed.count for row in self.rows]
        for row, first, queries, keys in zip(self.rows, skip, query, step.keys, strict=True):
            row.observed.add(queries[:, first:], keys[:, first:], most)
        whole = [(row.observed, row.start) for row in self.rows if row.observed.count == most]
        if not whole:
            return
        rope = self._rope(step.keys.shape[-1])
        self.profile = learnt(whole, most, self.setup.key, rope)
        for row in self.rows:
            row.observed = Observed()
            row.cache.set_profile(self.profile.turned(row.start), self.setup.threads())

    def attended(self) -> None:
        """To be called when attention has read a step. Layers that share these keys are to see
        the same of them, so those are closed at the next step only."""
        if self.setup.shared:
            self._unsettled = True
        else:
            self.settle()

    def settle(self) -> None:
        """Closes what has left the window."""
        self._unsettled = False
        caches = self.caches()
        for cache in caches:
            if cache.wants_profile:
                raise ParameterError(
                    f"layer {self.setup.layer}: the first page of keys is to be coded as "
                    f"{self.setup.key}, which weighs them against queries, and no query was seen: "
                    + REMEDIES
                )
        _core.settle_batch(caches, self.setup.threads())

    def flush(self) -> None:
        """Finishes the last step: takes over an update that attention has not asked for yet."""
        if self._step is not None:
            self.store(self._step, [0] * len(self.rows))
            self._unsettled = True
        if self._unsettled:
            self.settle()

    @property
    def balance(self) -> torch.Tensor | None:
        """The scales [num_kv_heads, head_dim], once known."""
        return None if self.profile is None else torch.from_numpy(self.profile.balance)

    @property
    def pending_bytes(self) -> int:
        """Of an update that attention has not taken over yet."""
        step = self._step
        return 0 if step is None else step.keys.nbytes + step.values.nbytes

    @property
    def observed_bytes(self) -> int:
        return sum(row.observed.nbytes for row in self.rows)

    # -- helpers ----------------------------------------------------------------------------------

    def _check(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        for name, tensor in (("keys", keys), ("values", values)):
            if tensor.device.type != "cpu":
                raise UnsupportedError(
                    f"{name} are on {tensor.device}: a PolarQuantCache works on the CPU, move the "
                    f"model there with model.to('cpu')"
                )
            if tensor.is_neg():
                raise UnsupportedError(
                    f"{name} are negated by a flag that only torch knows: pass resolve_neg()"
                )
            if tensor.dtype not in _DTYPES:
                raise UnsupportedError(
                    f"{name} are {tensor.dtype}: float32, float16 and bfloat16 are taken"
                )
        if self.length > 0 and len(keys) != len(self.rows):
            raise ParameterError(
                f"{len(keys)} rows for a cache that holds {len(self.rows)}: call "
                f"batch_repeat_interleave, batch_select_indices or reset first"
            )

    def _rope(self, head_dim: int) -> Rope:
        if head_dim not in self._ropes:
            self._ropes[head_dim] = self.setup.rope(self.setup.layer, head_dim, self.steps)
        return self._ropes[head_dim]

    def _empty(
        self, heads: int, key_dim: int, value_dim: int, start: int = 0
    ) -> _core.SequenceCache:
        setup = self.setup
        cache = _core.SequenceCache(
            setup.key, setup.value, key_dim, value_dim, heads, page_tokens=setup.page_tokens,
            window_tokens=setup.window_tokens, sink_tokens=setup.sink_tokens,
        )  # fmt: skip
        if self.profile is not None:
            cache.set_profile(self.profile.turned(start), setup.threads())
        return cache

    def _place(self, step: Step, skip: list[int], positions: torch.Tensor | None) -> None:
        """Notes where rows start. The core takes a row's number for its position, so the centre of
        a row that starts elsewhere is turned by as much."""
        if not self.steps or self._rope(step.keys.shape[-1]).dims == 0:
            return
        count = step.keys.shape[-2]
        if positions is not None and positions.shape[-1:] != (count,):
            positions = None
        for b, (row, first) in enumerate(zip(self.rows, skip, strict=True)):
            held = row.cache.length
            if first == count:
                continue
            if positions is not None:
                seen = positions.reshape(-1, count)[b if positions.numel() > count else 0, first:]
                start = int(seen[0]) - held
                jumps = len(seen) > 1 and bool((seen.diff() != 1).any())
                if jumps or (held > 0 and start != row.start):
                    raise UnsupportedError(
                        f"row {b} of layer {self.setup.layer}: the positions from {int(seen[0])} "
                        f"to {int(seen[-1])} do not follow one another, or not the {held} tokens "
                        f"before, which began at {row.start}; center=step needs that, {INSTEAD}"
                    )
            elif first > 0:
                raise UnsupportedError(
                    f"row {b} of layer {self.setup.layer} is padded on the left and the model does "
                    f"not tell its attention the positions of tokens, which center=step needs; "
                    f"{INSTEAD}"
                )
            else:
                start = row.start if held else 0
            if held == 0 and start != row.start:
                old = row.cache
                row.cache = self._empty(
                    old.num_kv_heads, old.key_head_dim, old.value_head_dim, start
                )
                row.start = start

    def _all(self, role: str) -> torch.Tensor | None:
        if not getattr(self, "is_initialized", False):
            return None
        self.flush()
        return self._decoded(role, None)

    def _decoded(self, role: str, new: torch.Tensor | None) -> torch.Tensor:
        """What is stored, decoded into the model's dtype, and `new` as it is."""
        if new is not None and self.length == 0:
            return new
        first = self.rows[0].cache
        head_dim = first.key_head_dim if role == "key" else first.value_head_dim
        count = 0 if new is None else new.shape[-2]
        shape = (len(self.rows), first.num_kv_heads, self.length + count, head_dim)
        decoded = torch.empty(shape, dtype=torch.float32)
        for row, out in zip(self.rows, decoded, strict=True):
            out[:, : row.pad] = 0
            held = self.length - row.pad
            if held > 0:
                row.cache.read(role, 0, held, out[:, row.pad : self.length], self.setup.threads())
        if new is not None:
            decoded[:, :, self.length :] = new.detach()
            return without_gradient(decoded.to(new.dtype), new)
        return decoded.to(self.dtype)

    def _select(self, indices: list[int]) -> None:
        used: set[int] = set()
        rows = []
        for i in indices:
            rows.append(self.rows[i].fork() if i in used else self.rows[i])
            used.add(i)
        self.rows = rows

    @staticmethod
    def _refuse_tensor(value: Any) -> None:
        if value is not None:
            raise UnsupportedError(
                "keys and values of a packed layer cannot be set: use update, crop, reset"
            )


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
