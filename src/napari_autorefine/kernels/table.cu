// Sums per orientation, the CUDA twin of table.py.
//
//     table[rows[o], k]   += values[o, k]
//     weights[rows[o], k] += amounts[o] sample_weight[o / rows_per_weight, k]          where begin <= rows[o] < end
//
// table (n_row, n_sample) complex64; weights (n_row, n_sample) float32; touched (n_row,) bool, set for rows that received
// something; rows (n_o,) int64, repetitions allowed; values (n_o, n_sample) complex64; amounts (n_o,) and sample_weight
// (n_o / rows_per_weight, n_sample) float32. One thread adds one sample, all in float32, with atomics because rows may repeat; a block belongs
// to one o (x), and strides over samples (y).
#include "common.cuh"

extern "C" __global__ void add_rows(
    Complex* table, float* weights, bool* touched, const long long* __restrict__ rows, int n_o,
    const Complex* __restrict__ values, const float* __restrict__ amounts, const float* __restrict__ sample_weight,
    int rows_per_weight, int n_sample, long long begin, long long end) {
    const int o = blockIdx.x;
    const int stride = gridDim.y * blockDim.x;
    if (o >= n_o || rows[o] < begin || rows[o] >= end) {
        return;
    }
    const long long first = rows[o] * n_sample;
    const float* own = sample_weight + (long long)(o / rows_per_weight) * n_sample;
    touched[rows[o]] = true;
    for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < n_sample; k += stride) {
        const Complex value = values[(long long)o * n_sample + k];
        if (value.re == 0.0f && value.im == 0.0f && amounts[o] == 0.0f) {
            continue;
        }
        atomicAdd(&table[first + k].re, value.re);
        atomicAdd(&table[first + k].im, value.im);
        atomicAdd(&weights[first + k], amounts[o] * own[k]);
    }
}
