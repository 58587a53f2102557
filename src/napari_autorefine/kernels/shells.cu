// Sums per shell, the CUDA twin of shells.py.
//
//     sums[i, shell[k]] += values[i, k]
//
// values (n_row, n) float32; shell (n,) int32; sums (n_row, n_shell) float64, zero at the start. A thread adds one value
// (x) of one row (y), with float64 atomics: results agree between runs to rounding.
#include "common.cuh"

extern "C" __global__ void shell_sums(
    const float* __restrict__ values, int n_row, long long n, const int* __restrict__ shell, int n_shell, double* sums) {
    const long long k = global_index();
    if (k >= n) {
        return;
    }
    for (int row = blockIdx.y; row < n_row; row += gridDim.y) {
        atomicAdd(&sums[(long long)row * n_shell + shell[k]], (double)values[row * n + k]);
    }
}
