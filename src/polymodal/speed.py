"""How fast the same arithmetic runs: the order of memory and compilation, by one switch."""

import os
import shutil
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.nn.make_private import takes_statistics

Speed = Literal["auto", "off", "compile"]

Network = TypeVar("Network", bound=nn.Module)


def accelerate(net: Network, speed: Speed = "auto") -> Network:
    """Let a network run as fast as is known for its device, without changing what it computes beyond rounding.

    Precision is not part of it: that is said once, by the trainer's `precision` or by `torch.autocast` around the call,
    which for bfloat16 brings more than anything here:

        net = polymodal.accelerate(net.eval())
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            prediction = net(inputs)

    Args:
        net: A network, on its device and in the mode, training or eval, in which it will be used. It is changed in
            place; its parameters and the keys of its state stay what they are.
        speed: "auto" for what was measured to be fastest without compiling, see docs/performance.md: on a CPU,
            channels-last memory where no norm takes statistics from its input, and not for training on a processor
            whose widest instructions are AVX2; elsewhere nothing. "compile" for that and `torch.compile`, whose first
            steps take minutes. "off" for nothing at all.

    Returns:
        The network.

    Raises:
        ConfigError: When the switch is unknown, or nothing is there to compile with.
    """
    if speed not in get_args(Speed):
        raise ConfigError(f"speed: expected one of {', '.join(get_args(Speed))}, got {speed!r}.")
    if speed == "off":
        return net
    device = next((parameter.device.type for parameter in net.parameters()), "cpu")
    if speed == "compile" and device == "cpu":
        wanted = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
        if not any(map(shutil.which, wanted)):
            raise ConfigError(
                'speed: "compile" needs a C++ compiler on a CPU, and there is none by the names '
                f'{", ".join(wanted)}. Install one, or use speed "auto".'
            )
    # Gradients in channels-last memory end the process there: the AVX2 kernels of PyTorch 2.15's oneDNN pad channels to
    # eight and write beyond their buffers, seen as "double free or corruption" with a few. Those of AVX-512 do not.
    spoiled = net.training and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if device == "cpu" and not spoiled and not any(map(takes_statistics, net.modules())):
        net.to(memory_format=torch.channels_last)
    if speed == "compile":
        net.compile()
    return net
