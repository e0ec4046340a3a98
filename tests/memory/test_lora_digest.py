"""The hash of a LoRA changes with every bit of it, and with nothing else."""

from __future__ import annotations

import pytest
import torch

from throughline.memory.lora_digest import lora_digest


def _lora(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    numbers = torch.arange(12, dtype=torch.float32).to(dtype)
    return {
        "blocks.0.to_q.lora_A.weight": numbers.view(2, 6).clone(),
        "blocks.0.to_q.lora_B.weight": numbers.view(6, 2).clone(),
        "blocks.0.to_q.alpha": torch.tensor(4.0),
    }


def test_order_and_layout_do_not_matter() -> None:
    lora = _lora()
    turned = dict(reversed(lora.items()))
    turned["blocks.0.to_q.lora_A.weight"] = lora["blocks.0.to_q.lora_A.weight"].t().contiguous().t()
    assert lora_digest(turned) == lora_digest(lora)
    assert len(lora_digest(lora)) == 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_the_type_is_part_of_it(dtype: torch.dtype) -> None:
    """0 to 11 are exact in every one of these types: only the type differs."""
    assert lora_digest(_lora(dtype)) != lora_digest(_lora())


def test_every_change_shows() -> None:
    lora = _lora()
    digests = [lora_digest(lora)]
    digests.append(lora_digest({name + "x": tensor for name, tensor in lora.items()}))
    for name, tensor in lora.items():
        smallest = torch.nextafter(tensor, torch.tensor(torch.inf))
        digests.append(lora_digest({**lora, name: smallest}))
        digests.append(lora_digest({**lora, name: tensor.reshape(1, -1)}))
        digests.append(lora_digest({key: lora[key] for key in lora if key != name}))
    assert len(set(digests)) == len(digests)


def test_names_do_not_run_into_tensors() -> None:
    """Swapping which name holds which tensor is another LoRA."""
    one, two = torch.zeros(2), torch.ones(2)
    assert lora_digest({"a": one, "b": two}) != lora_digest({"a": two, "b": one})
    assert lora_digest({}) != lora_digest({"a": torch.empty(0)})
