"""Weights that stay in main memory or on disk, and come to the device when they are needed.

accelerate's hook brings a module's weights in at every call and drops them after it. Here they can
be held: within a block, those of the modules that are called come in once, are used as often as it
takes, and are dropped at its end. Every byte that comes in is counted.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset, set_module_tensor_to_device
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from inspector.errors import LoadError

MEMORY = "cpu"
"""The place that is main memory, where the device has a memory of its own; others are folders."""

Weights = Mapping[str, torch.Tensor]


@dataclass
class _Block:
    """What is held in a block: its modules, those whose weights are here, and the tensors."""

    modules: dict[int, nn.Module]
    here: list[tuple[_Hook, nn.Module]] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class Offloaded:
    """The weights of a model that are not on its device.

    `device` is where the model runs. `parameters` and `bytes` are those of all its weights, tied
    ones once, which the meta tensors left in the model cannot tell. `read` counts the bytes that
    have been brought to the device, in the model's dtype, since the load.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Weights,
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        """Take the weights, [name in the model -> tensor], out of the model; `device` is its own.

        Args:
            model: a model without accelerate's hooks; its weights may be on the meta device.
            weights: what brings each of them in anew whenever it is asked for.
            device: where the model is to run.
            folder: removed once they are of no more use.
        """
        self.device, self.read = device, 0
        self._remove = weakref.finalize(self, _remove, folder)
        self.weights: Weights = weights
        self.tied = _tied(model)
        once = [weight for name, weight in model.named_parameters() if name not in self.tied]
        self.parameters = sum(weight.numel() for weight in once)
        self.bytes = sum(weight.nbytes for weight in once)
        self._blocks: list[_Block] = []
        self._hooks: dict[int, _Hook] = {}
        add_hook_to_module(model, AlignDevicesHook(io_same_device=True))
        for name, module in model.named_modules():
            if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                self._hooks[id(module)] = hook = _Hook(self, name)
                add_hook_to_module(module, hook, append=True)

    @contextmanager
    def hold(self, modules: Iterable[nn.Module], *, whole: bool = False) -> Iterator[None]:
        """Within the block, weights of these modules come in once, at the first call, and stay.

        Blocks nest; what an outer one holds, an inner one leaves alone. With `whole` all weights
        come in at once, called or not.
        """
        block = _Block({id(each): each for each in modules if id(each) in self._hooks})
        self._blocks.append(block)
        try:
            for key, module in block.modules.items() if whole else ():
                self.bring(self._hooks[key], module)
            yield
        finally:
            self._blocks.remove(block)
            for hook, module in block.here:
                hook.offload = True
                for name, _ in list(module.named_parameters(recurse=False)):
                    set_module_tensor_to_device(module, name, "meta", clear_cache=False)

    def bring(self, hook: _Hook, module: nn.Module) -> None:
        """Bring a module's weights in, where a block holds it and they are not here yet."""
        block = next((each for each in self._blocks if id(module) in each.modules), None)
        if block is None or not hook.offload:
            return
        for name, _ in list(module.named_parameters(recurse=False)):
            key = self.tied.get(hook.prefix + name, hook.prefix + name)
            found = [each.tensors[key] for each in self._blocks if key in each.tensors]
            if not found:
                weight = self.fetch(key)
                # A file's pages may go and be read again at every use: have memory of our own.
                found = [weight.clone() if weight.device == self.device else weight.to(self.device)]
                block.tensors[key] = found[0]
            set_module_tensor_to_device(
                module, name, self.device, value=found[0], clear_cache=False
            )
        hook.offload = False  # accelerate's own bringing and dropping rests meanwhile
        block.here.append((hook, module))

    def fetch(self, name: str) -> torch.Tensor:
        """A weight from where it is kept, which counts as brought in."""
        weight = self.weights[name]
        self.read += weight.nbytes
        return weight

    def close(self) -> None:
        """Let go of the weights: the model is an empty shell from now on."""
        self.weights = {}
        self._remove()


class _Fetched(Mapping[str, torch.Tensor]):
    """The weights under a module as accelerate's hook asks for them; each that it gets counts."""

    def __init__(self, offloaded: Offloaded) -> None:
        self._offloaded = offloaded

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._offloaded.fetch(self._offloaded.tied.get(name, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._offloaded.weights)

    def __len__(self) -> int:
        return len(self._offloaded.weights)


class _Hook(AlignDevicesHook):
    """accelerate's hook on a module with weights, which stands back where a block holds them."""

    def __init__(self, offloaded: Offloaded, name: str) -> None:
        self.offloaded, self.prefix = offloaded, f"{name}." if name else ""
        weights = PrefixedDataset(_Fetched(offloaded), self.prefix)
        super().__init__(offloaded.device, offload=True, weights_map=weights)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Before each call of the module."""
        self.offloaded.bring(self, module)
        return super().pre_forward(module, *args, **kwargs)


def offload_to_memory(model: PreTrainedModel, device: torch.device) -> Offloaded:
    """Keep the weights of a model in main memory, where they are, and run it on the device."""
    return Offloaded(model, dict(model.state_dict()), device)


def offload_to_disk(model: PreTrainedModel, folder: Path, device: torch.device) -> Offloaded:
    """Keep the weights of a model on disk, and run it on the device.

    Where transformers has left them in the model's own files they are read from there; else they
    are written to `folder`, which is removed with what this returns.
    """
    index = _index(model)
    if index is not None:
        remove_hook_from_module(model, recurse=True)
    else:
        tied, file = _tied(model), str(folder / "weights.safetensors")
        named = model.named_parameters()
        weights = {name: each.detach().contiguous() for name, each in named if name not in tied}
        save_file(weights, file)
        index = {name: {"safetensors_file": file, "weight_name": name} for name in weights}
    return Offloaded(model, OffloadedWeightsLoader(index=index), device, folder)


def _index(model: PreTrainedModel) -> dict[str, Any] | None:
    """Where each weight lies, as transformers has noted it in the hooks that it has set."""
    for module in model.modules():
        weights = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if weights is not None:
            return dict(weights.dataset.index)
    return None


def _tied(model: PreTrainedModel) -> dict[str, str]:
    """The names of weights that are another weight's, and of that one."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


@contextmanager
def own_folder(place: str, needed: int) -> Iterator[Path]:
    """A folder of our own in the folder `place`, which an error within the block removes.

    `needed` is how many bytes will be written there.

    Raises:
        LoadError: there is no such folder, it cannot be written to, or is on too small a disk.
    """
    try:
        free = shutil.disk_usage(place).free
        folder = Path(tempfile.mkdtemp(prefix="inspector-", dir=place))
    except OSError as error:
        raise LoadError(
            f"nothing can be offloaded to {place} ({error.strerror}): name a folder that is there "
            "and can be written to."
        ) from error
    try:
        if free < needed:
            raise LoadError(
                f"the disk of {place} has {free / 2**30:.1f} GiB free, and the weights take "
                f"{needed / 2**30:.1f} GiB there: offload to a folder on another disk."
            )
        yield folder
    except BaseException:
        _remove(folder)
        raise


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
