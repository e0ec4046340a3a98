"""LoRAs of single shots: put on and off between segments without loading the base model again.

Two of core's ways, chosen by the class of the patcher:

- `comfy.hooks` on a plain `ModelPatcher`: all LoRAs of a film are registered once on one clone that
  every segment is sampled with, and a segment's conditioning says which of them count. Core then
  changes the named weights in place before the first step and puts the kept originals back after
  the last. Hooks that first come with the conditioning would not do: registering them gives the
  patcher another `patches_uuid`, and core answers by loading the whole model again.
- weight patches on a clone for every other class (`ModelPatcherDynamic`, GGUF and the like):
  the dynamic class has no hooks (core would load a second, plain copy of the base from its file,
  `CFGGuider.inner_set_conds`). It keeps the weights in RAM and adds patches while it stages them on
  the device, once more after each switch; the file is not read again.

Measured on the demo model (CPU, plain patcher, LoRA of rank 8 on the 60 linear layers of the
blocks, six segments of which every other has the LoRA, two steps each; processor seconds of three
films): none 0.36 to 0.39, hooks 0.41 to 0.49, patches 0.46 to 0.51, with latents equal to the bit.
Core's `ModelPatcher.load` ran once with hooks, four times with hooks that came with the
conditioning, and six times with patches; on a GPU each of those also sends the whole model to RAM
and back (`ModelPatcher.partially_load`; read in the source, not measured).

A segment without a LoRA has no hooks and the original weights, so it is equal to the bit to one of
a film without LoRAs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.hooks
import comfy.model_patcher

from ..planning.shot_loras import AppliedLora, LoraOffer
from .family import Conditioning
from .lora import Patches, fit_lora
from .lora_files import LoraFile

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Dressed = tuple["ModelPatcher", Conditioning, Conditioning]
"""The model, positive and negative that a segment is sampled with."""

Dress = Callable[["ModelPatcher", Conditioning, Conditioning], Dressed]
"""Puts a segment's LoRAs on; what it is given is never mutated."""


@dataclass(frozen=True, kw_only=True)
class OfferedLora:
    """A LoRA as the graph offers it to a script; TL_LORAS is a tuple of these.

    `low_noise_file` is for the second expert of Wan 2.2 14B, None where that gets no LoRA.
    """

    offer: LoraOffer
    file: LoraFile
    low_noise_file: LoraFile | None


@dataclass(frozen=True, kw_only=True)
class FittedLora:
    """A LoRA's patches for the model and, where there is one, for the low-noise expert."""

    patches: Patches
    low_noise_patches: Patches
    digest: str


def fit_experts(
    model: ModelPatcher, low_noise_model: ModelPatcher | None, offered: OfferedLora
) -> FittedLora:
    """Fit a LoRA to both experts.

    Raises ValueError naming the file, the tensor and the model that do not go together.
    """
    low_noise: Patches = {}
    digest = offered.file.effect
    if low_noise_model is not None and offered.low_noise_file is not None:
        low_noise = fit_lora(low_noise_model, offered.low_noise_file)
        digest += offered.low_noise_file.effect
    return FittedLora(
        patches=fit_lora(model, offered.file), low_noise_patches=low_noise, digest=digest
    )


class LoraSwitch:
    """The LoRAs of one film on its one or two experts.

    `segments` are the LoRAs of every segment. `model` and `low_noise_model` are what segments must
    be sampled with, or clones of them; in a film without LoRAs they are the models that came in.
    """

    def __init__(
        self,
        model: ModelPatcher,
        low_noise_model: ModelPatcher | None,
        loras: Sequence[FittedLora],
        segments: Sequence[Sequence[AppliedLora]],
    ) -> None:
        self._loras = loras
        self._hooks: dict[AppliedLora, comfy.hooks.WeightHook] = {}
        self.model, self.low_noise_model = model, low_noise_model
        applied = dict.fromkeys(one for segment in segments for one in segment)
        self._by_hooks = _takes_hooks(model)
        if applied and self._by_hooks:
            self.model = model.clone()
            self.low_noise_model = None if low_noise_model is None else low_noise_model.clone()
            for one in applied:
                self._hooks[one] = self._register(one)

    def _register(self, applied: AppliedLora) -> comfy.hooks.WeightHook:
        """A hook whose patches both experts know under its name, each its own."""
        hook = comfy.hooks.WeightHook()
        hook.need_weight_init = False
        lora = self._loras[applied.index]
        self.model.add_hook_patches(hook, lora.patches, applied.strength)
        if self.low_noise_model is not None:
            self.low_noise_model.add_hook_patches(hook, lora.low_noise_patches, applied.strength)
        return hook

    def dress(self, loras: Sequence[AppliedLora]) -> Dress | None:
        """What puts these LoRAs on a segment; None for a segment without any."""
        if not loras:
            return None
        return self._hooked(loras) if self._by_hooks else self._patched(loras)

    def _hooked(self, loras: Sequence[AppliedLora]) -> Dress:
        group = comfy.hooks.HookGroup()
        for applied in loras:
            group.add(self._hooks[applied])

        def dress(model: ModelPatcher, positive: Conditioning, negative: Conditioning) -> Dressed:
            hooked = [
                comfy.hooks.set_hooks_for_conditioning(one, group, append_hooks=True)
                for one in (positive, negative)
            ]
            return model, hooked[0], hooked[1]

        return dress

    def _patched(self, loras: Sequence[AppliedLora]) -> Dress:
        low_noise = self.low_noise_model

        def dress(model: ModelPatcher, positive: Conditioning, negative: Conditioning) -> Dressed:
            second = low_noise is not None and model.is_clone(low_noise)
            clone = model.clone()
            for applied in loras:
                lora = self._loras[applied.index]
                patches = lora.low_noise_patches if second else lora.patches
                clone.add_patches(patches, applied.strength)
            return clone, positive, negative

        return dress


def _takes_hooks(model: ModelPatcher) -> bool:
    """Whether core's own plain patcher holds the weights."""
    return type(model) is comfy.model_patcher.ModelPatcher
