// Rotations of a grid of orientations, and what kernels that sample the reference need of them: twins of rotations.py.
//
//     grid_rotations:     rotations[i] = Rz(angle of orientation i) @ directions[direction of orientation i]
//     sampling_matrices:  matrices[i] = rotations[i]^T @ (f00 .. f22)
//
// orientations (n,) int64, numbered ((direction * n_angle + angle) * n_pixel + pixel) * n_half + half; directions
// (n_direction * n_pixel, 3, 3) and angles (n_angle * n_half, 2), their cosines and sines, float64; rotations (n, 3, 3)
// float64; matrices (n, 3, 3) float32. A thread belongs to one orientation. All arithmetic in float64.
#include "common.cuh"

extern "C" __global__ void grid_rotations(
    const long long* __restrict__ orientations, int n, const double* __restrict__ directions,
    const double* __restrict__ angles, int n_angle, int n_pixel, int n_half, double* rotations) {
    const long long i = global_index();
    if (i >= n) {
        return;
    }
    const long long half = orientations[i] % n_half, child = orientations[i] / n_half;
    const long long pixel = child % n_pixel, coarse = child / n_pixel;
    const double* from = directions + 9 * (coarse / n_angle * n_pixel + pixel);
    const double* angle = angles + 2 * (coarse % n_angle * n_half + half);
    double* out = rotations + 9 * i;
    for (int x = 0; x < 3; ++x) {
        out[x] = angle[0] * from[x] + angle[1] * from[3 + x];
        out[3 + x] = angle[0] * from[3 + x] - angle[1] * from[x];
        out[6 + x] = from[6 + x];
    }
}

extern "C" __global__ void sampling_matrices(
    const double* __restrict__ rotations, int n, double f00, double f01, double f02, double f10, double f11, double f12,
    double f20, double f21, double f22, float* matrices) {
    const long long i = global_index();
    if (i >= n) {
        return;
    }
    const double* own = rotations + 9 * i;
    float* out = matrices + 9 * i;
    for (int row = 0; row < 3; ++row) {
        out[3 * row] = (float)(own[row] * f00 + own[3 + row] * f10 + own[6 + row] * f20);
        out[3 * row + 1] = (float)(own[row] * f01 + own[3 + row] * f11 + own[6 + row] * f21);
        out[3 * row + 2] = (float)(own[row] * f02 + own[3 + row] * f12 + own[6 + row] * f22);
    }
}
