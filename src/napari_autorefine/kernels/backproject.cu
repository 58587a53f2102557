// Slice insertion, the exact adjoint of slice extraction and the CUDA twin of backproject.py.
//
//     data[v]   += w_v(q) values[o, k]                      w_v = trilinear weight of voxel v at q = M_o (x_k, y_k, z_k)
//     weight[v] += w_v(q) amounts[o] sample_weight[o, k]
//
// data (n_z, n_y, n_x) complex64 and weight, same shape, float32: centred in z and y, x >= 0; points with x < 0 go to
// their Friedel mate, conjugated. matrices (n_rot, 3, 3) float32; coordinates (n_sample, 3) int32, order x, y, z;
// values (n_rot, n_sample) complex64; amounts (n_rot,) float32; sample_weight float32, one row for every rows_per_weight
// slices. Sample 0 (DC) is kept apart by the caller, so it is skipped here; so are points with |q|^2 > r2_max and planes
// outside [z_begin, z_end).
// One thread adds one sample to eight voxels with float32 atomics: results agree between runs to rounding.
// Deviation from RELION (backprojector.cpp): the last pixel of a row is not lost.
#include "common.cuh"

extern "C" __global__ void backproject(
    Complex* data, float* weight, int n_z, int n_y, int n_x, const float* __restrict__ matrices, int n_rot,
    const Complex* __restrict__ values, const float* __restrict__ amounts, const float* __restrict__ sample_weight,
    int rows_per_weight, const int* __restrict__ coordinates, int n_sample, float r2_max, int z_begin, int z_end) {
    const int rotation = blockIdx.x;
    const int radius = (n_z - 1) / 2;
    const int stride = gridDim.y * blockDim.x;
    if (rotation >= n_rot) {
        return;
    }
    for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < n_sample; k += stride) {
        const Complex value = values[(long long)rotation * n_sample + k];
        const float amount =
            amounts[rotation] * sample_weight[(long long)(rotation / rows_per_weight) * n_sample + k];
        if (value.re == 0.0f && value.im == 0.0f && amount == 0.0f) {
            continue;
        }
        const Point point = fold(transform(matrices + 9LL * rotation, coordinates, k));
        const Cell cell = cell_of(point, radius);
        if (k == 0 || squared_length(point) > r2_max || !is_inside(cell, n_z, n_y, n_x)) {
            continue;
        }
        for (int corner = 0; corner < 8; ++corner) {
            const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
            const int iz = cell.iz + dz;
            if (iz < z_begin || iz >= z_end) {
                continue;
            }
            const float share = (dx ? cell.fx : 1.0f - cell.fx) * (dy ? cell.fy : 1.0f - cell.fy) *
                                (dz ? cell.fz : 1.0f - cell.fz);
            const long long v = voxel(iz, cell.iy + dy, cell.ix + dx, n_y, n_x);
            atomicAdd(&data[v].re, share * value.re);
            atomicAdd(&data[v].im, share * point.sign * value.im);
            atomicAdd(&weight[v], share * amount);
        }
    }
}
