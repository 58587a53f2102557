// A CUDA launch as plain loops, so that kernels run where there is no GPU. In sources that synchronize their blocks, for
// which SYNCHRONIZES is defined, the threads of a block are coroutines that take turns from barrier to barrier.
#pragma once
#include <cmath>
#include <cstddef>
#include <utility>
#ifdef SYNCHRONIZES
#include <functional>
#include <vector>
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other

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

#ifdef SYNCHRONIZES
struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool is_done;
};
static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::function<void()> body;

inline void __syncthreads() {
    swapcontext(&threads[threadIdx.x].context, &scheduler);
}
inline void run_thread() {
    body();
    threads[threadIdx.x].is_done = true;
}

// Run a block of one dimension; false when some threads wait at a barrier which others never reach.
template <typename Kernel>
inline bool run_block(const Kernel& kernel) {
    body = kernel;
    threads.resize(blockDim.x);
    for (Thread& thread : threads) {
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = &scheduler;
        thread.is_done = false;
        makecontext(&thread.context, run_thread, 0);
    }
    for (;;) {
        unsigned n_done = 0;
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) {
            swapcontext(&scheduler, &threads[threadIdx.x].context);
            n_done += threads[threadIdx.x].is_done;
        }
        if (n_done > 0) {
            return n_done == blockDim.x;
        }
    }
}
#else
template <typename Kernel>
inline bool run_block(const Kernel& kernel) {
    for (threadIdx.z = 0; threadIdx.z < blockDim.z; ++threadIdx.z)
        for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                kernel();
    return true;
}
#endif

template <typename... A, std::size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

// Arguments as cuLaunchKernel takes them: pointers to the values. Returns 0, or how many arguments the kernel takes, or
// -1 when the threads of a block did not all reach the same barriers.
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
                if (!run_block([&] { call(kernel, arguments, std::index_sequence_for<A...>{}); })) {
                    return -1;
                }
    return 0;
}
