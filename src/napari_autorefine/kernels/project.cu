// Slice extraction, the CUDA twin of project.py.
//
//     slices[o, k] = F(M_o (x_k, y_k, z_k)),   F trilinear in the padded half volume, F(-q) = conj F(q)
//
// volume (n_z, n_y, n_x) complex64, centred in z and y, x >= 0; matrices (n_rot, 3, 3) float32;
// coordinates (n_sample, 3) int32, order x, y, z; slices (n_rot, n_sample) complex64. All arithmetic in float32.
// Zero where |q|^2 > r2_max. One thread makes one element; a block belongs to one rotation (x), and strides over
// samples (y). Deviation from RELION (projector.cpp): none in the arithmetic.
#include "common.cuh"

extern "C" __global__ void project(
    const Complex* __restrict__ volume, int n_z, int n_y, int n_x, const float* __restrict__ matrices, int n_rot,
    const int* __restrict__ coordinates, int n_sample, float r2_max, Complex* __restrict__ slices) {
    const int rotation = blockIdx.x;
    const int radius = (n_z - 1) / 2;
    const int stride = gridDim.y * blockDim.x;
    if (rotation >= n_rot) {
        return;
    }
    for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < n_sample; k += stride) {
        Complex value = make_complex(0.0f, 0.0f);
        const Point point = fold(transform(matrices + 9LL * rotation, coordinates, k));
        const Cell cell = cell_of(point, radius);
        if (squared_length(point) <= r2_max && is_inside(cell, n_z, n_y, n_x)) {
            value = trilinear(volume, cell, n_y, n_x);
            value.im *= point.sign;
        }
        slices[(long long)rotation * n_sample + k] = value;
    }
}
