// Where flags are set in every row, the CUDA twin of positions.py.
//
//     positions[i, k] = position of the k-th flag of row i that is set; behind the last of them, of the first that is not
//
// flags (n_row, n) bool; positions (n_row, width) int64, width at most n. A block belongs to one row, and a thread to
// a run of its flags: it counts those that are set, counts are added up over the block, and positions are written.
#include "common.cuh"

#define WIDTH 256  // threads of a block

extern "C" __global__ void set_positions(
    const bool* __restrict__ flags, int n_row, long long n, long long width, long long* positions) {
    __shared__ long long upto[WIDTH];
    __shared__ long long first_unset;
    const int row = blockIdx.x;
    if (row >= n_row) {
        return;
    }
    const bool* own = flags + row * n;
    const long long length = (n + WIDTH - 1) / WIDTH;
    const long long begin = min(n, length * threadIdx.x), end = min(n, begin + length);
    long long count = 0;
    for (long long j = begin; j < end; ++j) {
        count += own[j] ? 1 : 0;
    }
    upto[threadIdx.x] = count;
    if (threadIdx.x == 0) {
        first_unset = 0;
    }
    __syncthreads();
    for (int step = 1; step < WIDTH; step *= 2) {
        const long long before = (int)threadIdx.x >= step ? upto[threadIdx.x - step] : 0;
        __syncthreads();
        upto[threadIdx.x] += before;
        __syncthreads();
    }
    // The run in which the number of set flags first falls behind holds the first one that is not set.
    if (count < end - begin && upto[threadIdx.x] - count == begin) {
        long long j = begin;
        while (own[j]) {
            ++j;
        }
        first_unset = j;
    }
    __syncthreads();
    long long* out = positions + row * width;
    long long place = upto[threadIdx.x] - count;
    for (long long j = begin; j < end && place < width; ++j) {
        if (own[j]) {
            out[place++] = j;
        }
    }
    for (long long k = upto[WIDTH - 1] + threadIdx.x; k < width; k += WIDTH) {
        out[k] = first_unset;
    }
}
