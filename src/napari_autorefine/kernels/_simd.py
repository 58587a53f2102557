"""Blocks of sixteen samples for the numba kernels: coordinates in vectors, one load for two neighbouring voxels.

A block takes sixteen points of a list, turns them by a matrix, folds them to x >= 0, and reads or adds to the eight
voxels around each. What a processor has no registers for the compiler splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 16
MOST_VOXELS = 2**32  # voxel numbers are 32-bit in the vectors
_F32, _F64, _I32, _I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _BITS = ir.VectorType(_F32, BLOCK), ir.VectorType(_I32, BLOCK), ir.IntType(BLOCK)
_V4 = ir.VectorType(_F32, 4)
_FAST = ("nsz", "arcp", "contract", "afn", "reassoc")


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def block_points(rows, n_sample, outside):  # type: ignore[no-untyped-def]
    """Frequencies of the samples of a row table (n_row, 5), (3, n) float32 with n a multiple of the block.

    Places after the last sample hold ``outside``: 0 for any point, NaN for one that lies nowhere.
    """
    points = np.full((3, (n_sample + BLOCK - 1) // BLOCK * BLOCK), np.float32(outside), dtype=np.float32)
    for row in range(rows.shape[0]):
        first = np.int64(rows[row, 4])
        for j in range(rows[row, 3]):
            points[0, first + j] = rows[row, 2] + j
            points[1, first + j] = rows[row, 1]
            points[2, first + j] = rows[row, 0]
    return points


def _places(lanes: Any) -> Any:
    lanes = list(lanes)
    return ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)


def _pick(builder: Any, first: Any, second: Any, lanes: Any) -> Any:
    """Lanes of two vectors, those of the second counted from the length of the first."""
    return builder.shuffle_vector(first, second, _places(lanes))


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _splat(builder: Any, scalar: Any, kind: Any) -> Any:
    empty = ir.Constant(kind, ir.Undefined)
    vector = builder.insert_element(empty, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(vector, empty, _places([0] * kind.count))


def _data(context: Any, builder: Any, sig: Any, args: Any, number: int) -> Any:
    """Pointer to the first element of an array argument."""
    return cgutils.create_struct_proxy(sig.args[number])(context, builder, value=args[number]).data


def _load(builder: Any, base: Any, index: Any, kind: Any) -> Any:
    load = builder.load(builder.bitcast(builder.gep(base, [index]), ir.PointerType(kind)))
    load.align = 4
    return load


def _converted(builder: Any, vector: Any, kind: Any) -> Any:
    """Return a vector in the precision of ``kind``."""
    if vector.type.element == kind:
        return vector
    convert = builder.fpext if kind == _F64 else builder.fptrunc
    return convert(vector, ir.VectorType(kind, vector.type.count))


def _store(builder: Any, base: Any, index: Any, vector: Any) -> None:
    store = builder.store(vector, builder.bitcast(builder.gep(base, [index]), ir.PointerType(vector.type)))
    store.align = 4


def _add_to(builder: Any, base: Any, index: Any, vector: Any) -> None:
    """``base[index : index + lanes] += vector`` without an alignment promise, in the precision of ``base``."""
    vector = _converted(builder, vector, base.type.pointee)
    _store(builder, base, index, builder.fadd(_load(builder, base, index, vector.type), vector, flags=_FAST))


def _mul(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b, flags=_FAST)


def _lerp(builder: Any, a: Any, b: Any, weight: Any) -> Any:
    return builder.fadd(a, _mul(builder, builder.fsub(b, a, flags=_FAST), weight), flags=_FAST)


def _turned(builder: Any, points: Any, matrix: Any) -> list[Any]:
    """Points (three vectors) times a matrix (nine scalars)."""
    x, y, z = points
    out = []
    for row in range(3):
        a, b, c = (_splat(builder, scalar, _FLOATS) for scalar in matrix[3 * row : 3 * row + 3])
        inner = builder.fadd(_mul(builder, b, y), _mul(builder, c, z), flags=_FAST)
        out.append(builder.fadd(_mul(builder, a, x), inner, flags=_FAST))
    return out


def _folded(builder: Any, points: Any, r2_max: Any) -> tuple[list[Any], Any, Any]:
    """Points folded to x >= 0 (the origin in place of those outside), which are inside, and the sign of the fold."""
    zero = _constant(_FLOATS, 0.0)
    x2, y2, z2 = (_mul(builder, v, v) for v in points)
    radius2 = builder.fadd(x2, builder.fadd(y2, z2, flags=_FAST), flags=_FAST)
    inside = builder.fcmp_ordered("<=", radius2, _splat(builder, r2_max, _FLOATS))
    is_mate = builder.fcmp_ordered("<", points[0], zero)
    sign = builder.select(is_mate, _constant(_FLOATS, -1.0), _constant(_FLOATS, 1.0))
    return [builder.select(inside, _mul(builder, v, sign), zero) for v in points], inside, sign


def _cells(builder: Any, points: Any, layout: Any) -> tuple[Any, list[Any], Any]:
    """Voxel number of the corner of each point's cell, fractions within the cell, and the plane of the corner."""
    centre, stride_y, stride_z = (_splat(builder, builder.trunc(v, _I32), _INTS) for v in layout)
    floor = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), f"llvm.floor.v{BLOCK}f32"
    )
    floors = [builder.call(floor, [v]) for v in points]
    fractions = [builder.fsub(v, f, flags=_FAST) for v, f in zip(points, floors, strict=True)]
    ix, iy, iz = (builder.fptosi(f, _INTS) for f in floors)
    index = builder.add(centre, builder.mul(iz, stride_z))
    index = builder.add(builder.add(index, builder.mul(iy, stride_y)), ix)
    return index, fractions, iz


def _located(builder: Any, args: Any, points: Any, matrix: Any) -> tuple[Any, Any, Any]:
    """Turn and fold the points of a block: ``args`` are n_point, k, first element of the matrix, r2_max."""
    n_point, k, first, r2_max = args
    lines = [
        _load(builder, points, builder.add(builder.mul(n_point, ir.Constant(_I64, i)), k), _FLOATS) for i in range(3)
    ]
    scalars = [builder.load(builder.gep(matrix, [builder.add(first, ir.Constant(_I64, i))])) for i in range(9)]
    return _folded(builder, _turned(builder, lines, scalars), r2_max)


def _lane(builder: Any, index: Any, lane: int) -> Any:
    return builder.zext(builder.extract_element(index, ir.Constant(_I32, lane)), _I64)


def _doubled(builder: Any, index: Any) -> Any:
    return builder.shl(index, ir.Constant(_I64, 1))


def _interpolation(n_channel: int) -> Any:
    """Intrinsic that samples volumes of ``n_channel`` floats per voxel: 2 = complex, folded with its sign; 1 = real."""

    def interpolate(typingctx, flat, layout, points, n_point, k, matrices, first, r2_max, out, at):  # type: ignore[no-untyped-def]
        i64, f32 = types.int64, types.float32
        three = types.UniTuple(i64, 3)
        return types.void(flat, three, points, i64, i64, matrices, i64, f32, out, i64), codegen

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, target = _data(context, builder, sig, args, 0), _data(context, builder, sig, args, 8)
        layout = cgutils.unpack_tuple(builder, args[1])
        where = (args[3], args[4], args[6], args[7])
        own = _located(builder, where, _data(context, builder, sig, args, 2), _data(context, builder, sig, args, 5))
        inside, sign, zero = own[1], own[2], _constant(_FLOATS, 0.0)
        index, (fx, fy, fz), _ = _cells(builder, own[0], layout)
        factors = builder.select(inside, _constant(_FLOATS, 1.0), zero), builder.select(inside, sign, zero)
        for start in range(0, BLOCK, 4):
            line = _four_lines(builder, base, layout, [_lane(builder, index, start + j) for j in range(4)], n_channel)
            wide = [start + j // (2 * n_channel) for j in range(8 * n_channel)]
            wy, wz = _pick(builder, fy, fy, wide), _pick(builder, fz, fz, wide)
            low, high = _lerp(builder, line[0], line[1], wy), _lerp(builder, line[2], line[3], wy)
            both = _lerp(builder, low, high, wz)
            channel = [(j // n_channel, j % n_channel) for j in range(4 * n_channel)]
            left = _pick(builder, both, both, [2 * n_channel * point + c for point, c in channel])
            right = _pick(builder, both, both, [2 * n_channel * point + n_channel + c for point, c in channel])
            value = _lerp(builder, left, right, _pick(builder, fx, fx, [start + point for point, _ in channel]))
            factor = _pick(builder, *factors, [start + point + BLOCK * c for point, c in channel])
            place = builder.add(args[9], ir.Constant(_I64, n_channel * start))
            _store(builder, target, place, _mul(builder, value, factor))
        return context.get_dummy_value()

    return intrinsic(interpolate)


def _four_lines(builder: Any, base: Any, layout: Any, corners: Any, n_channel: int) -> list[Any]:
    """Voxels x and x + 1 of four cells side by side, at the four (y, z) corners of the cells."""
    _, stride_y, stride_z = layout
    kind = ir.VectorType(_F32, 2 * n_channel)
    lines = []
    for offset in (None, stride_y, stride_z, builder.add(stride_y, stride_z)):
        places = corners if offset is None else [builder.add(corner, offset) for corner in corners]
        places = [_doubled(builder, place) for place in places] if n_channel == 2 else places
        parts = [_load(builder, base, place, kind) for place in places]
        halves = [_pick(builder, a, b, range(4 * n_channel)) for a, b in (parts[:2], parts[2:])]
        lines.append(_pick(builder, halves[0], halves[1], range(8 * n_channel)))
    return lines


# Trilinear samples of a complex or real volume at ``matrices[first : first + 9] @ points[:, k : k + 16]``.
# ``layout`` is (centre, stride_y, stride_z) in voxels, ``points`` (3 n_point,). Sixteen values are written to
# ``out[at:]``, 0 beyond ``r2_max``.
interpolate_block = _interpolation(2)
interpolate_real_block = _interpolation(1)


@intrinsic
def scatter_block(  # type: ignore[no-untyped-def]
    typingctx,
    data,
    weight,
    layout,
    slab,
    points,
    n_point,
    k,
    matrices,
    first,
    r2_max,
    values,
    at,
    masses,
    mass_at,
    amount,
):
    """Add sixteen values and ``amount * masses`` to the cells around ``matrices[first : first + 9] @ points``.

    ``layout`` is (centre, stride_y, stride_z) in voxels, ``slab`` (radius, z_begin, z_end): only those planes are
    touched. ``values[at:]`` are interleaved complex numbers, ``masses[mass_at:]`` real ones. Cells may be of double
    precision, and values and masses as well; products are of the precision of these.
    """
    i64, f32 = types.int64, types.float32
    three = types.UniTuple(i64, 3)
    signature = types.void(
        data, weight, three, three, points, i64, i64, matrices, i64, f32, values, i64, masses, i64, f32
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data_base, weight_base, values_base, masses_base = (
            _data(context, builder, sig, args, i) for i in (0, 1, 10, 12)
        )
        layout_ = cgutils.unpack_tuple(builder, args[2])
        where = (args[5], args[6], args[8], args[9])
        own = _located(builder, where, _data(context, builder, sig, args, 4), _data(context, builder, sig, args, 7))
        index, fractions, iz = _cells(builder, own[0], layout_)
        owned = _owned_planes(builder, iz, own[1], cgutils.unpack_tuple(builder, args[3]))
        some = builder.icmp_unsigned("!=", builder.or_(*owned), ir.Constant(_BITS, 0))
        with builder.if_then(some):
            kind = values_base.type.pointee
            lanes = [builder.add(args[11], ir.Constant(_I64, BLOCK * half)) for half in range(2)]
            pair = [_load(builder, values_base, lane, ir.VectorType(kind, BLOCK)) for lane in lanes]
            re = _pick(builder, pair[0], pair[1], range(0, 2 * BLOCK, 2))
            sign = _converted(builder, own[2], kind)
            im = _mul(builder, _pick(builder, pair[0], pair[1], range(1, 2 * BLOCK, 2)), sign)
            mass = _load(builder, masses_base, args[13], ir.VectorType(kind, BLOCK))
            mass = _mul(builder, mass, _converted(builder, _splat(builder, args[14], _FLOATS), kind))
            cell = _Cell(builder, (data_base, weight_base), layout_, fractions)
            for lane in range(BLOCK):
                cell.add(_lane(builder, index, lane), lane, (re, im, mass), owned)
        return context.get_dummy_value()

    return signature, codegen


def _owned_planes(builder: Any, iz: Any, inside: Any, slab: Any) -> tuple[Any, Any]:
    """Bit masks of the points inside whose lower, and whose upper, plane lies in the slab."""
    radius, z_begin, z_end = (_splat(builder, builder.trunc(v, _I32), _INTS) for v in slab)
    masks = []
    for step in (0, 1):
        plane = builder.add(builder.add(iz, radius), _constant(_INTS, step))
        above, below = (
            builder.icmp_signed(">=", plane, z_begin),
            builder.icmp_signed("<", plane, z_end),
        )
        masks.append(builder.bitcast(builder.and_(builder.and_(above, below), inside), _BITS))
    return masks[0], masks[1]


class _Cell:
    """Adds values to the voxels of a cell; holds the shares of the corners of all points of a block."""

    def __init__(self, builder: Any, bases: tuple[Any, Any], layout: Any, fractions: Any) -> None:
        self.builder, self.bases, self.layout = builder, bases, layout
        one = _constant(_FLOATS, 1.0)
        rest = [builder.fsub(one, f, flags=_FAST) for f in fractions]
        self.x_shares = rest[0], fractions[0]
        self.shares = [_mul(builder, z, y) for z in (rest[2], fractions[2]) for y in (rest[1], fractions[1])]

    def add(self, corner: Any, lane: int, sample: tuple[Any, Any, Any], owned: tuple[Any, Any]) -> None:
        """Add one lane of a sample (real and imaginary part, mass) where its planes are owned."""
        builder, (re, im, mass) = self.builder, sample
        kind = re.type.element
        x_shares = _pick(builder, *self.x_shares, [lane, lane, BLOCK + lane, BLOCK + lane])
        x_shares = _converted(builder, x_shares, kind)
        value = _mul(builder, _pick(builder, re, im, [lane, BLOCK + lane] * 2), x_shares)
        amount = _mul(builder, _pick(builder, mass, mass, [lane] * 2), _pick(builder, x_shares, x_shares, [0, 2]))
        _, stride_y, stride_z = self.layout
        for plane, mask in enumerate(owned):
            is_owned = builder.icmp_unsigned(
                "!=", builder.and_(mask, ir.Constant(_BITS, 1 << lane)), ir.Constant(_BITS, 0)
            )
            with builder.if_then(is_owned):
                row = builder.add(corner, stride_z) if plane else corner
                for line in range(2):
                    place = builder.add(row, stride_y) if line else row
                    share = self.shares[2 * plane + line]
                    share = _converted(builder, _pick(builder, share, share, [lane] * 4), kind)
                    part = _mul(builder, value, share)
                    _add_to(builder, self.bases[0], _doubled(builder, place), part)
                    part = _mul(builder, amount, _pick(builder, share, share, range(2)))
                    _add_to(builder, self.bases[1], place, part)
