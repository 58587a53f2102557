// What is left of particles when the map has been taken away, the CUDA twin of residuals.py.
//
//     noise[i, shell[k]] += total[i] |X|^2 - 2 C cross[i, k] + C^2 power[i, k]
//     sums[i] = sum_k of  v |X|^2,  u c cross,  u c^2 power,  w v (C / s) cross,  w v (C / s)^2 power
//
// with X = masked, C = contrast, c = ctf times s, v = score_weight times precision, all of row at[i]; s = intensity[i];
// u, w = use_for_scale and use_for_intensity of the shell. masked (n_image, n_sample) complex64; contrast, ctf and
// precision, which is read if has_precision, (n_image, n_sample), score_weight (n_sample,), cross, power (n, n_sample),
// total (n,), use_for_scale and use_for_intensity (n_shell,) float32; at (n,) int64; shell (n_sample,) int32; intensity
// (n,), noise (n, n_shell), zero at the start, and sums (n, 5) float64. A block belongs to one i. Sums are in float64; those
// of noise meet in atomics, so that they agree between runs to rounding.
#include "common.cuh"

#define WIDTH 128  // threads of a block
#define SUMS 5

extern "C" __global__ void residual_sums(
    const long long* __restrict__ at, int n, int n_sample, const Complex* __restrict__ masked,
    const float* __restrict__ contrast, const float* __restrict__ ctf, const float* __restrict__ score_weight,
    const float* __restrict__ precision, int has_precision, const float* __restrict__ cross,
    const float* __restrict__ power, const float* __restrict__ total, const double* __restrict__ intensity,
    const int* __restrict__ shell, const float* __restrict__ use_for_scale,
    const float* __restrict__ use_for_intensity, int n_shell, double* noise, double* sums) {
    __shared__ double parts[SUMS * WIDTH];
    const int row = blockIdx.x;
    if (row >= n) {
        return;
    }
    const long long own = at[row] * n_sample, posterior = (long long)row * n_sample;
    const double amount = total[row], strength = intensity[row];
    double sum[SUMS] = {0.0, 0.0, 0.0, 0.0, 0.0};
    for (int k = threadIdx.x; k < n_sample; k += WIDTH) {
        const Complex value = masked[own + k];
        const double square = (double)value.re * value.re + (double)value.im * value.im;
        const double c = contrast[own + k], of_group = ctf[own + k] * strength, of_particle = c / strength;
        const double x = cross[posterior + k], p = power[posterior + k];
        const double weight = (double)score_weight[k] * (has_precision ? precision[own + k] : 1.0f);
        const double scaled = use_for_scale[shell[k]], used = use_for_intensity[shell[k]] * weight;
        atomicAdd(&noise[(long long)row * n_shell + shell[k]], amount * square - 2.0 * c * x + c * c * p);
        sum[0] += weight * square;
        sum[1] += scaled * of_group * x;
        sum[2] += scaled * of_group * of_group * p;
        sum[3] += used * of_particle * x;
        sum[4] += used * of_particle * of_particle * p;
    }
    for (int i = 0; i < SUMS; ++i) {
        parts[i * WIDTH + threadIdx.x] = sum[i];
    }
    __syncthreads();
    for (int half = WIDTH / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            for (int i = 0; i < SUMS; ++i) {
                parts[i * WIDTH + threadIdx.x] += parts[i * WIDTH + threadIdx.x + half];
            }
        }
        __syncthreads();
    }
    if (threadIdx.x < SUMS) {
        sums[(long long)row * SUMS + threadIdx.x] = parts[threadIdx.x * WIDTH];
    }
}
