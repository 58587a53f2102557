"""Four-lane building blocks for the numba kernels: one load fetches two neighbouring complex numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_F32 = ir.FloatType()
_I64 = ir.IntType(64)
_V4 = ir.VectorType(_F32, 4)
_FAST = ("nsz", "arcp", "contract", "afn", "reassoc")


def _splat(builder: Any, scalar: Any) -> Any:
    empty = ir.Constant(_V4, ir.Undefined)
    vector = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(vector, empty, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))


def _floor(builder: Any, value: Any) -> Any:
    module = builder.module
    fn = cgutils.get_or_insert_function(module, ir.FunctionType(_F32, [_F32]), "llvm.floor.f32")
    return builder.call(fn, [value])


def _row_pointer(builder: Any, base: Any, index: Any) -> Any:
    pointer = builder.gep(base, [index])
    return builder.bitcast(pointer, ir.PointerType(_V4))


def _load4(builder: Any, base: Any, index: Any) -> Any:
    load = builder.load(_row_pointer(builder, base, index))
    load.align = 4
    return load


def _cell(builder: Any, args: Any) -> Any:
    """Integer cell (element index of its corner) and fractions of a point."""
    centre, stride_y, stride_z, x, y, z = args
    floors = [_floor(builder, v) for v in (x, y, z)]
    fractions = [builder.fsub(v, f, flags=_FAST) for v, f in zip((x, y, z), floors, strict=True)]
    ix, iy, iz = (builder.sext(builder.fptosi(f, ir.IntType(32)), _I64) for f in floors)
    index = builder.add(centre, builder.mul(iz, stride_z))
    index = builder.add(index, builder.mul(iy, stride_y))
    index = builder.add(index, builder.shl(ix, ir.Constant(_I64, 1)))
    return index, fractions


@intrinsic
def trilinear(typingctx, flat, centre, stride_y, stride_z, x, y, z):  # type: ignore[no-untyped-def]
    """Trilinear sample of an interleaved complex volume; strides are in floats; x >= 0."""
    f32, i64 = types.float32, types.int64
    signature = types.UniTuple(f32, 2)(flat, i64, i64, i64, f32, f32, f32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0]).data
        stride_y_, stride_z_ = args[2], args[3]
        index, (fx, fy, fz) = _cell(builder, args[1:])
        lines = [
            _load4(builder, base, i)
            for i in (
                index,
                builder.add(index, stride_y_),
                builder.add(index, stride_z_),
                builder.add(index, builder.add(stride_y_, stride_z_)),
            )
        ]
        vy, vz = _splat(builder, fy), _splat(builder, fz)

        def lerp(a: Any, b: Any, w: Any) -> Any:
            return builder.fadd(a, builder.fmul(builder.fsub(b, a, flags=_FAST), w, flags=_FAST), flags=_FAST)

        low, high = lerp(lines[0], lines[1], vy), lerp(lines[2], lines[3], vy)
        line = lerp(low, high, vz)
        i32 = ir.IntType(32)
        re0, im0, re1, im1 = (builder.extract_element(line, ir.Constant(i32, k)) for k in range(4))
        return context.make_tuple(builder, sig.return_type, (lerp(re0, re1, fx), lerp(im0, im1, fx)))

    return signature, codegen


def _vector(builder: Any, scalars: Any) -> Any:
    kind = ir.VectorType(_F32, len(scalars))
    vector = ir.Constant(kind, ir.Undefined)
    for lane, scalar in enumerate(scalars):
        vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), lane))
    return vector


def _add_to(builder: Any, base: Any, index: Any, vector: Any) -> Any:
    """``base[index : index + lanes] += vector`` without an alignment promise."""
    pointer = builder.bitcast(builder.gep(base, [index]), ir.PointerType(vector.type))
    load = builder.load(pointer)
    load.align = 4
    store = builder.store(builder.fadd(load, vector, flags=_FAST), pointer)
    store.align = 4


@intrinsic
def scatter_plane(typingctx, data, weight, index, stride_y, fx, fy, re, im, amount):  # type: ignore[no-untyped-def]
    """Add a point to the 2 x 2 cell corner of one z plane; ``index`` and ``stride_y`` count complex elements."""
    f32, i64 = types.float32, types.int64
    signature = types.void(data, weight, i64, i64, f32, f32, f32, f32, f32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data_base = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0]).data
        weight_base = cgutils.create_struct_proxy(sig.args[1])(context, builder, value=args[1]).data
        index_, stride_, fx_, fy_, re_, im_, amount_ = args[2:]
        one = ir.Constant(_F32, 1.0)
        gx, gy = builder.fsub(one, fx_), builder.fsub(one, fy_)
        value = _vector(builder, [builder.fmul(a, b) for a, b in ((re_, gx), (im_, gx), (re_, fx_), (im_, fx_))])
        mass = _vector(builder, [builder.fmul(amount_, gx), builder.fmul(amount_, fx_)])
        for corner, share in ((index_, gy), (builder.add(index_, stride_), fy_)):
            doubled = builder.shl(corner, ir.Constant(_I64, 1))
            _add_to(builder, data_base, doubled, builder.fmul(value, _vector(builder, [share] * 4)))
            _add_to(builder, weight_base, corner, builder.fmul(mass, _vector(builder, [share] * 2)))
        return context.get_dummy_value()

    return signature, codegen
