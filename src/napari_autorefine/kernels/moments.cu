// Sums over slices in one pass, the CUDA twins of the two functions of moments.py.
//
//     weighted_power:     out[o]   = sum_k weights[k] |slices[o, k]|^2
//     mean_power:         power[k] = sum_o amounts[o] |slices[o, k]|^2
//
// slices (n_rot, n_sample) complex64; weights (n_sample,), amounts (n_rot,), out (n_rot,), power (n_sample,) float32,
// the last two zero at the start. All arithmetic in float32; partial sums meet in float32
// atomics, so results agree between runs to rounding.
#include "common.cuh"

// A block belongs to one rotation; a thread sums every blockDim.x-th sample.
extern "C" __global__ void weighted_power(
    const Complex* __restrict__ slices, int n_rot, int n_sample, const float* __restrict__ weights, float* out) {
    const int rotation = blockIdx.x;
    if (rotation >= n_rot) {
        return;
    }
    const Complex* slice = slices + (long long)rotation * n_sample;
    float total = 0.0f;
    for (int k = threadIdx.x; k < n_sample; k += blockDim.x) {
        total += weights[k] * (slice[k].re * slice[k].re + slice[k].im * slice[k].im);
    }
    atomicAdd(&out[rotation], total);
}

// A thread belongs to one sample (x) and sums every gridDim.y-th rotation.
extern "C" __global__ void mean_power(
    const Complex* __restrict__ slices, int n_rot, int n_sample, const float* __restrict__ amounts, float* power) {
    const long long k = global_index();
    if (k >= n_sample) {
        return;
    }
    float total = 0.0f;
    for (int rotation = blockIdx.y; rotation < n_rot; rotation += gridDim.y) {
        const Complex slice = slices[(long long)rotation * n_sample + k];
        total += amounts[rotation] * (slice.re * slice.re + slice.im * slice.im);
    }
    atomicAdd(&power[k], total);
}
