# mypy: ignore-errors
"""The Triton kernels. Importing this file needs triton, so only `triton.py` imports it, when a kernel first runs.

A chunk is (B, C) logits from the matrix product, in float32, bfloat16 or float16; every kernel computes in float32.
The dense kernels take tiles of one row by `block` logits, and read and write each logit once. Logits of positives and
masked pairs are -inf by then: their terms and slopes come out as exactly 0.

The pair kernels take `block` of all P (row, column) pairs, and touch the pairs whose column is in this chunk: no
sort, and the host never waits. Pairs are distinct, so none overwrites another; sums are in a fixed order, without
atomics, so repeated calls give the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def log1p_of_share(e):
    """Return log(1 + e) for 0 <= e <= 1, the fit of native.c: tl.log(1 + e) is 0 for the e of an easy negative."""
    y = 2.037690510e-03
    y = y * e - 1.344483102e-02
    y = y * e + 4.155762259e-02
    y = y * e - 8.253533212e-02
    y = y * e + 1.242510293e-01
    y = y * e - 1.610863193e-01
    y = y * e + 1.989153748e-01
    y = y * e - 2.498739275e-01
    y = y * e + 3.333256918e-01
    y = y * e - 4.999998172e-01
    y = y * e + 9.999999993e-01
    return y * e


@triton.jit
def focal_terms(z, gamma: tl.constexpr):
    """Return f(z) = p^gamma * softplus(z) and f'(z) in float32. Eager twin: `focal.focal_with_slope`."""
    e = tl.exp(-tl.abs(z))
    near = 1.0 / (1.0 + e)
    far = e * near
    p = tl.where(z < 0, far, near)
    log1p = log1p_of_share(e)
    value = tl.maximum(z, 0.0) + log1p
    slope = p
    if gamma != 0:
        slope = gamma * tl.where(z < 0, near, far) * value + p
        if gamma == 1:
            power = p
        elif gamma == 2:
            power = p * p
        elif gamma == 3:
            power = p * p * p
        elif gamma == 4:
            power = (p * p) * (p * p)
        elif gamma == 5:
            power = (p * p) * (p * p) * p
        else:
            power = tl.exp(-gamma * (tl.maximum(-z, 0.0) + log1p))
        value *= power
        slope *= power
    return value, slope


@triton.jit
def focal_dense(logits, slopes, sums, length, weight, gamma: tl.constexpr, block: tl.constexpr):
    """Write weight * f'(z) for every logit, and the sum of weight * f(z) of each tile.

    Tiling: a row by `block` logits. Memory: a number per tile. Eager twin: `FocalLoss.negative_with_slope`.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tile * block + tl.arange(0, block)
    inside = column < length
    place = row * length + column
    z = tl.load(logits + place, mask=inside, other=float("-inf")).to(tl.float32)
    value, slope = focal_terms(z, gamma)
    tl.store(slopes + place, slope * weight, mask=inside)
    tl.store(sums + row * tl.num_programs(1) + tile, tl.sum(value, axis=0) * weight)


@triton.jit
def places_of(rows, columns, count, first, length, block: tl.constexpr):
    """Return the pairs of this program, their places in the chunk, and whether each is in the chunk."""
    pair = tl.program_id(0) * block + tl.arange(0, block)
    here = pair < count
    row = tl.load(rows + pair, mask=here, other=0)
    column = tl.load(columns + pair, mask=here, other=0) - first
    return pair, row * length + column, here & (column >= 0) & (column < length)


@triton.jit
def focal_pairs(
    logits,
    rows,
    columns,
    count,
    first,
    length,
    values,
    slopes,
    weights,
    weight,
    weighted: tl.constexpr,
    gamma: tl.constexpr,
    block: tl.constexpr,
):
    """Write w * f(-z) of each positive and its slope, (P,), and -inf to its logit.

    Tiling: `block` pairs. Memory: two numbers per positive. Eager twin: `FocalLoss.positive_with_slope`.
    """
    pair, place, inside = places_of(rows, columns, count, first, length, block)
    z = tl.load(logits + place, mask=inside, other=0.0).to(tl.float32)
    value, slope = focal_terms(-z, gamma)
    if weighted:
        weight *= tl.load(weights + pair, mask=inside, other=0.0)
    tl.store(values + pair, value * weight, mask=inside)
    tl.store(slopes + pair, -slope * weight, mask=inside)
    tl.store(logits + place, tl.full([block], float("-inf"), tl.float32), mask=inside)


@triton.jit
def take_pairs(chunk, rows, columns, count, first, length, values, block: tl.constexpr):
    """Write the chunk's number at each pair to values, (P,). Eager twin: values = chunk[rows, columns]."""
    pair, place, inside = places_of(rows, columns, count, first, length, block)
    number = tl.load(chunk + place, mask=inside, other=0.0)
    tl.store(values + pair, number.to(tl.float32), mask=inside)


@triton.jit
def put_pairs(chunk, rows, columns, count, first, length, values, block: tl.constexpr):
    """Write (P,) values into the chunk. Eager twin: chunk[rows, columns] = values."""
    pair, place, inside = places_of(rows, columns, count, first, length, block)
    tl.store(chunk + place, tl.load(values + pair, mask=inside, other=0.0), mask=inside)


@triton.jit
def hide_pairs(chunk, rows, columns, count, first, length, block: tl.constexpr):
    """Write -inf at each pair. Eager twin: chunk[rows, columns] = -inf."""
    _, place, inside = places_of(rows, columns, count, first, length, block)
    tl.store(chunk + place, tl.full([block], float("-inf"), tl.float32), mask=inside)


@triton.jit
def column_sums(slopes, scale, sums, batch, length, tall: tl.constexpr, block: tl.constexpr):
    """Write the gradient of the bias, (C,): the sum over the rows of scale * slope.

    Tiling: `block` columns, `tall` rows at a time. Memory: none. Eager twin: scale @ slopes.
    """
    column = tl.program_id(0) * block + tl.arange(0, block)
    total = tl.zeros([block], tl.float32)
    for start in range(0, batch, tall):
        row = start + tl.arange(0, tall)
        inside = (row < batch)[:, None] & (column < length)[None, :]
        place = row.to(tl.int64)[:, None] * length + column[None, :]
        slope = tl.load(slopes + place, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(scale + row, mask=row < batch, other=0.0)
        total += tl.sum(slope * factor[:, None], axis=0)
    tl.store(sums + column, total, mask=column < length)


@triton.jit
def softmax_sums(
    logits, peaks, sums, totals, length, temperature, smoothed: tl.constexpr, masked: tl.constexpr, block: tl.constexpr
):
    """Write for each tile m, the largest z / temperature, the sum of exp(z / temperature - m), and the sum of z.

    Tiling: a row by `block` logits. Memory: two or three numbers per tile. Eager twin: `torch_walks.first_walk`.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tile * block + tl.arange(0, block)
    inside = column < length
    z = tl.load(logits + row * length + column, mask=inside, other=float("-inf")).to(tl.float32) / temperature
    peak = tl.maximum(tl.max(z, axis=0), -3.4028234663852886e38)  # a tile may hold only -inf
    place = row * tl.num_programs(1) + tile
    tl.store(peaks + place, peak)
    tl.store(sums + place, tl.sum(tl.exp(z - peak), axis=0))
    if smoothed:
        counted = inside
        if masked:
            counted = z != float("-inf")
        tl.store(totals + place, tl.sum(tl.where(counted, z, 0.0), axis=0))


@triton.jit
def softmax_slopes(
    logits, slopes, peak, factor, smoothing, length, temperature, smoothed: tl.constexpr, block: tl.constexpr
):
    """Write (factor * exp(z / temperature - peak) - smoothing) / temperature for every logit, and 0 for -inf.

    Tiling: a row by `block` logits. Memory: none. Eager twin: `torch_walks._slope`.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < length
    place = row * length + column
    z = tl.load(logits + place, mask=inside, other=float("-inf")).to(tl.float32) / temperature
    slope = tl.exp(z - tl.load(peak + row)) * tl.load(factor + row)
    if smoothed:
        slope = tl.where(z == float("-inf"), 0.0, slope - tl.load(smoothing + row))
    tl.store(slopes + place, slope / temperature, mask=inside)
