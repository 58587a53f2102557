// Contrast transfer function on a list of frequencies, the CUDA twin of ctf.py.
//
//     phase = p0 x^2 + p1 x y + p2 y^2 + p3 u^4 + p4 + extra(x, y)         u^2 = x^2 + y^2
//     value = -sin(phase), or 1 where |phase| < pi/2 and the first peak is kept intact
//     ctf   = value * p6 * exp(-p5 u^2),  moved to +-1e-8 where smaller
//
// parameters (n, 7) float64; frequencies (n_frequency, 2) float64, order x, y, in 1/A; extra_phase (n_frequency,)
// float64, radians; values (n, n_frequency) float32. The phase reaches thousands of radians, so it is computed in
// float64 and reduced to [-pi/2, pi/2]; sine, damping and result are float32. One thread makes one value; a block
// belongs to one particle (x), and strides over frequencies (y). Deviation from RELION (ctf.cpp): none.
#include "common.cuh"

extern "C" __global__ void ctf(
    const double* __restrict__ parameters, int n_particle, const double* __restrict__ frequencies, int n_frequency,
    const double* __restrict__ extra_phase, int is_first_peak_intact, float* __restrict__ values) {
    const int particle = blockIdx.x;
    const int stride = gridDim.y * blockDim.x;
    if (particle >= n_particle) {
        return;
    }
    const double* p = parameters + 7LL * particle;
    for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < n_frequency; k += stride) {
        const double x = frequencies[2LL * k], y = frequencies[2LL * k + 1];
        const double u2 = x * x + y * y;
        const double phase = p[0] * x * x + p[1] * x * y + p[2] * y * y + p[3] * u2 * u2 + p[4] + extra_phase[k];
        const double turns = phase * 0.31830988618379067;
        const double nearest = floor(turns + 0.5);
        const float sine = sinf(3.14159265f * (float)(turns - nearest));
        const bool is_odd = nearest != 2.0 * floor(0.5 * nearest);
        float value = is_odd ? sine : -sine;
        if (is_first_peak_intact && fabs(phase) < 1.5707963267948966) {
            value = 1.0f;
        }
        value *= (float)p[6] * expf((float)(-p[5] * u2));
        if (fabsf(value) < 1e-8f) {
            value = value < 0.0f ? -1e-8f : 1e-8f;
        }
        values[(long long)particle * n_frequency + k] = value;
    }
}
