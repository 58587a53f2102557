// Sum of a centred half array over rotations of Fourier space, the CUDA twin of the numba kernel of this name.
//
//     summed[q] = array[q] + sum_s array(R_s q),   trilinear, F(-q) = conj F(q);  zero where |q|^2 > r2_max
//
// data complex64 and weight float32 (n_z, n_y, n_x), centred in z and y, x >= 0; operators (n_operator, 3, 3) float32,
// the identity left out, whose term is exact; summed_data and summed_weight like data and weight. Planes [z_begin,
// z_end) are written. One thread makes one element of both sums, all in float32.
// Deviation from RELION (backprojector.cpp): none in the arithmetic.
#include "common.cuh"

extern "C" __global__ void symmetrize(
    const Complex* __restrict__ data, const float* __restrict__ weight, int n_z, int n_y, int n_x,
    const float* __restrict__ operators, int n_operator, float r2_max, int z_begin, int z_end,
    Complex* __restrict__ summed_data, float* __restrict__ summed_weight) {
    const int radius = (n_z - 1) / 2;
    const long long v = global_index() + (long long)z_begin * n_y * n_x;
    if (v >= (long long)z_end * n_y * n_x) {
        return;
    }
    const float kx = (float)(v % n_x), ky = (float)(v / n_x % n_y - radius), kz = (float)(v / n_x / n_y - radius);
    Complex total = make_complex(0.0f, 0.0f);
    float mass = 0.0f;
    if (kx * kx + ky * ky + kz * kz <= r2_max) {
        total = data[v];
        mass = weight[v];
        for (int s = 0; s < n_operator; ++s) {
            const Point point = fold(transform(operators + 9LL * s, kx, ky, kz));
            const Cell cell = cell_of(point, radius);
            if (is_inside(cell, n_z, n_y, n_x)) {
                const Complex value = trilinear(data, cell, n_y, n_x);
                total.re += value.re;
                total.im += point.sign * value.im;
                mass += trilinear(weight, cell, n_y, n_x);
            }
        }
    }
    summed_data[v] = total;
    summed_weight[v] = mass;
}
