"""Triton's interpreter made to round as a GPU does."""

import numpy as np
import torch


def rounding(monkeypatch):
    """Between float32 and bfloat16 the interpreter truncates: round to nearest instead."""
    from triton.runtime import interpreter

    real = interpreter._convert_float

    def converted(data, source, target, mode):
        kinds = (str(source), str(target))
        if kinds == ("fp32", "bf16"):
            rounded = torch.from_numpy(np.ascontiguousarray(data).view(np.float32)).bfloat16()
            return rounded.view(torch.int16).numpy().view(np.uint16)
        if kinds == ("bf16", "fp32"):
            bits = torch.from_numpy(np.ascontiguousarray(data).view(np.int16))
            return bits.view(torch.bfloat16).float().numpy()
        return real(data, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", converted)
