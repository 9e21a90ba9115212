"""Compile every Triton kernel for one compute capability, in all its variants, and print the number of variants.

A separate script, because an environment variable makes all kernels of a process interpreted:

    python tests/losses/compile_triton.py 90
"""

import sys

from hyperfocal.losses.triton import BLOCK, PAIRS, TALL, WIDE

INTEGERS = ("length", "count", "first", "batch")
NUMBERS = ("weight", "temperature")
ONE = {"length": 1, "count": 1, "first": 1}  # Triton turns an argument that is 1 into a constant
VARIANTS = [
    *[("focal_dense", {"gamma": gamma, "block": BLOCK}) for gamma in (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)],
    ("focal_dense", {"gamma": 2.0, "length": 1, "block": BLOCK}),
    *[("focal_pairs", {"weighted": weighted, "gamma": 0.5, "block": PAIRS}) for weighted in (False, True)],
    ("focal_pairs", {"weighted": True, "gamma": 0.0, "block": PAIRS, **ONE}),
    *[(kernel, {"block": PAIRS, **ones}) for kernel in ("take_pairs", "put_pairs", "hide_pairs") for ones in ({}, ONE)],
    *[("column_sums", {"tall": TALL, "block": WIDE, **ones}) for ones in ({}, {"batch": 1, "length": 1})],
    *[("softmax_sums", {"smoothed": on, "masked": masked, "block": BLOCK}) for on, masked in ((0, 0), (1, 0), (1, 1))],
    *[("softmax_slopes", {"smoothed": smoothed, "block": BLOCK}) for smoothed in (False, True)],
]


def type_of(argument: str, kernel: str, dtype: str) -> str:
    """Return Triton's name for the type of an argument, if the product of a chunk is `dtype`."""
    slopes = "fp32" if dtype == "fp16" else dtype
    if argument in INTEGERS or argument in NUMBERS:
        return "i32" if argument in INTEGERS else "fp32"
    if argument in ("rows", "columns"):
        return "*i64"
    if argument == "logits" or (argument == "chunk" and kernel != "put_pairs"):
        return f"*{dtype}"
    whole = argument == "chunk" or (argument == "slopes" and kernel != "focal_pairs")
    return f"*{slopes}" if whole else "*fp32"


def compile_one(kernel: str, constants: dict[str, float], dtype: str, capability: int) -> None:
    """Compile one kernel down to the machine code of the GPU."""
    from triton.backends.compiler import GPUTarget  # not at the top: pytest imports this file to look for examples
    from triton.compiler import ASTSource, compile

    from hyperfocal.losses import triton_kernels

    function = getattr(triton_kernels, kernel)
    names = function.arg_names
    types = {name: "constexpr" if name in constants else type_of(name, kernel, dtype) for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=types, constexprs=values)
    assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


if __name__ == "__main__":
    for dtype in ("fp32", "bf16", "fp16"):
        for kernel, constants in VARIANTS:
            compile_one(kernel, constants, dtype, int(sys.argv[1]))
    print(3 * len(VARIANTS))
