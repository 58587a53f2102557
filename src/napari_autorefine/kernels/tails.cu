// Sums of what is large in every row, the CUDA twin of tails.py.
//
//     total[i] = sum_j weights[i, j] where weights[i, j] >= least[i]
//
// weights (n_row, n) and least (n_row,) float32; total (n_row,) float64, zero at the start. A thread sums every
// (gridDim.x * blockDim.x)-th element of a row (y) in float64; partial sums meet in float64 atomics.
#include "common.cuh"

extern "C" __global__ void tail_sums(
    const float* __restrict__ weights, int n_row, long long n, const float* __restrict__ least, double* total) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (int row = blockIdx.y; row < n_row; row += gridDim.y) {
        const float* own = weights + row * n;
        const float floor = least[row];
        double sum = 0.0;
        for (long long j = global_index(); j < n; j += stride) {
            sum += own[j] >= floor ? (double)own[j] : 0.0;
        }
        if (sum != 0.0) {
            atomicAdd(&total[row], sum);
        }
    }
}
