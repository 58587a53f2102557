// Sums over slices in one pass, the CUDA twins of the two functions of moments.py.
//
//     weighted_power:     out[o]      = sum_k weights[o / rows_per_weight, k] |slices[o, k]|^2
//     mean_power:         power[g, k] = sum_o amounts[g, o] |slices[g, o, k]|^2
//
// slices (n_rot, n_sample), or (n_group, n_rot, n_sample), complex64; weights (n_rot / rows_per_weight, n_sample),
// amounts (n_group, n_rot), out (n_rot,), power (n_group, n_sample) float32, out and power zero at the start. All
// arithmetic in float32; partial sums meet in float32 atomics, so results agree between runs to rounding.
#include "common.cuh"

// A block belongs to one rotation; a thread sums every blockDim.x-th sample.
extern "C" __global__ void weighted_power(
    const Complex* __restrict__ slices, int n_rot, int n_sample, const float* __restrict__ weights,
    int rows_per_weight, float* out) {
    const int rotation = blockIdx.x;
    if (rotation >= n_rot) {
        return;
    }
    const Complex* slice = slices + (long long)rotation * n_sample;
    const float* own = weights + (long long)(rotation / rows_per_weight) * n_sample;
    float total = 0.0f;
    for (int k = threadIdx.x; k < n_sample; k += blockDim.x) {
        total += own[k] * (slice[k].re * slice[k].re + slice[k].im * slice[k].im);
    }
    atomicAdd(&out[rotation], total);
}

// A thread belongs to one sample (x) and sums every gridDim.y-th rotation of every gridDim.z-th group.
extern "C" __global__ void mean_power(
    const Complex* __restrict__ slices, int n_group, int n_rot, int n_sample, const float* __restrict__ amounts,
    float* power) {
    const long long k = global_index();
    if (k >= n_sample) {
        return;
    }
    for (int group = blockIdx.z; group < n_group; group += gridDim.z) {
        const Complex* own = slices + (long long)group * n_rot * n_sample;
        float total = 0.0f;
        for (int rotation = blockIdx.y; rotation < n_rot; rotation += gridDim.y) {
            const float amount = amounts[(long long)group * n_rot + rotation];
            if (amount != 0.0f) {
                const Complex slice = own[(long long)rotation * n_sample + k];
                total += amount * (slice.re * slice.re + slice.im * slice.im);
            }
        }
        atomicAdd(&power[(long long)group * n_sample + k], total);
    }
}
