// A CUDA launch as plain loops, so that a kernel without block-level synchronization runs where there is no GPU.
#pragma once
#include <cmath>
#include <cstddef>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline

struct dim3 {
    unsigned x, y, z;
};
static dim3 gridDim, blockDim, blockIdx, threadIdx;

template <typename T>
inline T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}
template <typename T>
inline T atomicMax(T* address, T value) {
    const T old = *address;
    *address = old < value ? value : old;
    return old;
}
inline float __int_as_float(int value) { float f; __builtin_memcpy(&f, &value, 4); return f; }
inline int __float_as_int(float value) { int i; __builtin_memcpy(&i, &value, 4); return i; }
using std::isfinite;
using std::isnan;
template <typename T>
inline T min(T a, T b) { return b < a ? b : a; }
template <typename T>
inline T max(T a, T b) { return a < b ? b : a; }

template <typename... A, std::size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

// Arguments as cuLaunchKernel takes them: pointers to the values.
template <typename... A>
inline int run(void (*kernel)(A...), const unsigned* shape, void** arguments, int n_arguments) {
    if (n_arguments != static_cast<int>(sizeof...(A))) {
        return static_cast<int>(sizeof...(A));
    }
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
                for (threadIdx.z = 0; threadIdx.z < blockDim.z; ++threadIdx.z)
                    for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
                        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                            call(kernel, arguments, std::index_sequence_for<A...>{});
    return 0;
}
