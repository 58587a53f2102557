// Weights of the samples that matter, the CUDA twin of significance.py.
//
//     weights[i, j] = exp(scores[i, j] - top[i]), 0 below e^-30, 0 where it is not among the largest of its row that
//     make up `fraction` of their sum total[i], nor among the max_count largest; divided by the sum if is_normalised
//
// scores (n_row, n) float32, replaced by the weights; top (n_row,) float32; total (n_row,) float64. A block belongs to one
// row. The smallest weight kept is found digit by digit: weights of at most 1 are ordered as their bits are, and sums in
// float64 of those that share the digits found so far are made per next digit, by every thread in a column of its own.
// Sums are added in a fixed order: results are the same every time.
#include "common.cuh"

#define WIDTH 256  // threads of a block
#define BINS 16    // values of a digit of 4 bits
#define SHARE (WIDTH / BINS)

__device__ inline float largest_of_block(float own, float* shared) {
    __syncthreads();
    shared[threadIdx.x] = own;
    __syncthreads();
    for (int half = WIDTH / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
        }
        __syncthreads();
    }
    return shared[0];
}

__device__ inline double sum_of_block(double own, double* shared) {
    __syncthreads();
    shared[threadIdx.x] = own;
    __syncthreads();
    for (int half = WIDTH / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            shared[threadIdx.x] += shared[threadIdx.x + half];
        }
        __syncthreads();
    }
    return shared[0];
}

// Sums of the row's weights, or their number, by the digit at `shift` of those whose digits above it are `prefix`; they
// end in parts[0] to parts[BINS - 1]. columns holds BINS * WIDTH numbers, parts WIDTH.
__device__ inline void sums_by_digit(
    const float* own, long long n, bool is_count, int shift, unsigned prefix, double* columns, double* parts) {
    for (int digit = 0; digit < BINS; ++digit) {
        columns[digit * WIDTH + threadIdx.x] = 0.0;
    }
    for (long long j = threadIdx.x; j < n; j += WIDTH) {
        const float weight = own[j];
        const unsigned digits = (unsigned)__float_as_int(weight) >> shift;
        if (weight > 0.0f && digits >> 4 == prefix) {
            columns[(digits & 15) * WIDTH + threadIdx.x] += is_count ? 1.0 : (double)weight;
        }
    }
    __syncthreads();
    const int digit = threadIdx.x / SHARE, first = threadIdx.x % SHARE;
    double part = 0.0;
    for (int column = first; column < WIDTH; column += SHARE) {
        part += columns[digit * WIDTH + column];
    }
    parts[threadIdx.x] = part;
    __syncthreads();
    part = 0.0;
    if (threadIdx.x < BINS) {
        for (int i = 0; i < SHARE; ++i) {
            part += parts[threadIdx.x * SHARE + i];
        }
    }
    __syncthreads();
    if (threadIdx.x < BINS) {
        parts[threadIdx.x] = part;
    }
    __syncthreads();
}

// Largest weight for which the sum, or the number, of those at least as large reaches `target`; 0 if none does.
__device__ inline float largest_with(
    const float* own, long long n, bool is_count, double target, double* columns, double* parts) {
    unsigned prefix = 0;
    double above = 0.0;
    for (int shift = 28; shift >= 0; shift -= 4) {
        sums_by_digit(own, n, is_count, shift, prefix, columns, parts);
        int digit = BINS - 1;  // every thread finds the same
        for (; digit > 0 && above + parts[digit] < target; --digit) {
            above += parts[digit];
        }
        prefix = prefix << 4 | (unsigned)digit;
        __syncthreads();
    }
    return __int_as_float((int)prefix);
}

extern "C" __global__ void significant_weights(
    float* scores, int n_row, long long n, double fraction, long long max_count, int is_normalised, float* top,
    double* total) {
    __shared__ double columns[BINS * WIDTH];
    __shared__ double parts[WIDTH];
    __shared__ float maxima[WIDTH];
    const int row = blockIdx.x;
    if (row >= n_row) {
        return;
    }
    float* own = scores + row * n;
    float largest = own[0];
    for (long long j = threadIdx.x; j < n; j += WIDTH) {
        largest = fmaxf(largest, own[j]);
    }
    largest = largest_of_block(largest, maxima);
    double sum = 0.0;
    for (long long j = threadIdx.x; j < n; j += WIDTH) {
        const float depth = own[j] - largest;
        const float weight = depth > -30.0f ? expf(depth) : 0.0f;
        own[j] = weight;
        sum += (double)weight;
    }
    sum = sum_of_block(sum, parts);
    __syncthreads();
    float least = 0.0f;
    if (fraction < 1.0) {
        least = largest_with(own, n, false, fraction * sum, columns, parts);
    }
    if (max_count > 0) {
        least = fmaxf(least, largest_with(own, n, true, (double)max_count, columns, parts));
    }
    const float scale = is_normalised ? (float)sum : 1.0f;
    for (long long j = threadIdx.x; j < n; j += WIDTH) {
        own[j] = own[j] >= least ? own[j] / scale : 0.0f;
    }
    if (threadIdx.x == 0) {
        top[row] = largest;
        total[row] = sum;
    }
}
