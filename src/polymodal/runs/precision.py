"""Whether this machine computes with bfloat16: one that only imitates it takes several times as long for it."""

import torch
from lightning.pytorch import Trainer

FULL = ("--trainer.precision", "32-true")


def knows_bfloat16() -> bool:
    """Whether the device that a training takes by itself, a GPU or else the processor, computes with bfloat16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) or torch.backends.mps.is_available()


def demo_precision() -> tuple[str, ...]:
    """What a demo changes in its recipe, which asks for bfloat16; said, as the figures differ in their last digit."""
    if knows_bfloat16():
        return ()
    print("in float32, as this processor has no arithmetic for bfloat16")
    return FULL


def hint_at_precision(trainer: Trainer) -> None:
    """Say it where a recipe asks for what this processor can only imitate; the recipe is obeyed."""
    if str(trainer.precision).startswith("bf16") and trainer.is_global_zero and not knows_bfloat16():
        print(
            f"precision {trainer.precision}: this processor has no arithmetic for bfloat16 and imitates it, which "
            f"takes several times as long; {' '.join(FULL)} does not."
        )
