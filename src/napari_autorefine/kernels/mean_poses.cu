// Mean poses of posteriors around their largest weights, the CUDA twin of mean_poses.py.
//
// rotations (n, n_o, 3, 3), shifts (n, n_t, dim <= 3), operators (n_s, 3, 3) float64; weights (n, n_o, n_t) float32;
// turns (n, 3, 3), means (n, dim) float64. A block belongs to one posterior, and a thread to every WIDTH-th orientation.
// Sums in float64 are added in a fixed order: results are the same every time.
#include "common.cuh"

#define WIDTH 128  // threads of a block
#define SUMS 7     // of weight, turn vector, shift

__device__ inline void product(const double* first, const double* second, double* out) {
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            out[3 * i + j] =
                first[3 * i] * second[j] + first[3 * i + 1] * second[3 + j] + first[3 * i + 2] * second[6 + j];
        }
    }
}

// Axis times angle of a rotation below 180 degrees.
__device__ inline void rotation_vector(const double* rotation, double* vector) {
    vector[0] = 0.5 * (rotation[7] - rotation[5]);
    vector[1] = 0.5 * (rotation[2] - rotation[6]);
    vector[2] = 0.5 * (rotation[3] - rotation[1]);
    const double sine = sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
    if (sine >= 1e-12) {
        const double ratio = atan2(sine, 0.5 * (rotation[0] + rotation[4] + rotation[8] - 1.0)) / sine;
        for (int i = 0; i < 3; ++i) {
            vector[i] *= ratio;
        }
    }
}

// Rotation by an axis times angle (Rodrigues).
__device__ inline void matrix_of(const double* v, double* out) {
    const double angle = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    double first = 1.0, second = 0.5;
    if (angle > 1e-6) {
        const double half = sin(0.5 * angle) / angle;
        first = sin(angle) / angle;
        second = 2.0 * half * half;
    }
    const double cross[9] = {0.0, -v[2], v[1], v[2], 0.0, -v[0], -v[1], v[0], 0.0};
    double squared[9];
    product(cross, cross, squared);
    for (int i = 0; i < 9; ++i) {
        out[i] = (i % 4 == 0 ? 1.0 : 0.0) + first * cross[i] + second * squared[i];
    }
}

// Position of the largest of n weights, the first of equal ones.
__device__ inline long long largest_of_block(const float* weights, long long n, float* tops, long long* places) {
    float top = -1.0f;
    long long place = 0;
    for (long long j = threadIdx.x; j < n; j += WIDTH) {
        if (weights[j] > top) {
            top = weights[j];
            place = j;
        }
    }
    tops[threadIdx.x] = top;
    places[threadIdx.x] = place;
    __syncthreads();
    for (int half = WIDTH / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            const int other = threadIdx.x + half;
            if (tops[other] > tops[threadIdx.x] ||
                (tops[other] == tops[threadIdx.x] && places[other] < places[threadIdx.x])) {
                tops[threadIdx.x] = tops[other];
                places[threadIdx.x] = places[other];
            }
        }
        __syncthreads();
    }
    return places[0];
}

extern "C" __global__ void mean_poses(
    const double* __restrict__ rotations, const double* __restrict__ shifts, const float* __restrict__ weights, int n,
    int n_o, int n_t, int dim, const double* __restrict__ operators, int n_s, double least_cosine, double farthest2,
    double* turns, double* means) {
    __shared__ float tops[WIDTH];
    __shared__ long long places[WIDTH];
    __shared__ double sums[SUMS * WIDTH];
    const int row = blockIdx.x;
    if (row >= n) {
        return;
    }
    const double* turn = rotations + 9LL * row * n_o;
    const double* shift = shifts + (long long)row * n_t * dim;
    const float* weight = weights + (long long)row * n_o * n_t;
    const long long best = largest_of_block(weight, (long long)n_o * n_t, tops, places);
    const double* own = turn + 9 * (best / n_t);
    const double* own_shift = shift + best % n_t * dim;
    double sum[SUMS] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int o = threadIdx.x; o < n_o; o += WIDTH) {
        double between[9], nearest[9], cosine = -2.0;  // turn @ operator @ own^T
        for (int s = 0; s < n_s; ++s) {
            double moved[9];
            product(turn + 9LL * o, operators + 9 * s, moved);
            for (int i = 0; i < 3; ++i) {
                for (int j = 0; j < 3; ++j) {
                    between[3 * i + j] = moved[3 * i] * own[3 * j] + moved[3 * i + 1] * own[3 * j + 1] +
                                         moved[3 * i + 2] * own[3 * j + 2];
                }
            }
            const double found = 0.5 * (between[0] + between[4] + between[8] - 1.0);
            if (found > cosine) {
                cosine = found;
                for (int i = 0; i < 9; ++i) {
                    nearest[i] = between[i];
                }
            }
        }
        if (cosine < least_cosine) {
            continue;
        }
        double amount = 0.0;
        for (int t = 0; t < n_t; ++t) {
            const double share = (double)weight[(long long)o * n_t + t];
            double distance2 = 0.0;
            for (int i = 0; i < dim; ++i) {
                const double step = shift[(long long)t * dim + i] - own_shift[i];
                distance2 += step * step;
            }
            if (share > 0.0 && distance2 <= farthest2) {
                amount += share;
                for (int i = 0; i < dim; ++i) {
                    sum[4 + i] += share * shift[(long long)t * dim + i];
                }
            }
        }
        double vector[3];
        rotation_vector(nearest, vector);
        sum[0] += amount;
        for (int i = 0; i < 3; ++i) {
            sum[1 + i] += amount * vector[i];
        }
    }
    for (int i = 0; i < SUMS; ++i) {
        sums[i * WIDTH + threadIdx.x] = sum[i];
    }
    __syncthreads();
    for (int half = WIDTH / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            for (int i = 0; i < SUMS; ++i) {
                sums[i * WIDTH + threadIdx.x] += sums[i * WIDTH + threadIdx.x + half];
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        double mean[3], matrix[9];
        for (int i = 0; i < 3; ++i) {
            mean[i] = sums[(1 + i) * WIDTH] / sums[0];
        }
        matrix_of(mean, matrix);
        product(matrix, own, turns + 9LL * row);
        for (int i = 0; i < dim; ++i) {
            means[(long long)row * dim + i] = sums[(4 + i) * WIDTH] / sums[0];
        }
    }
}
