// Shared by every kernel: complex numbers as NumPy stores them, the Hermitian fold, trilinear weights.
//
// Plain enough to compile three ways: NVRTC through CuPy, NVRTC alone, and a C++ compiler behind a small shim that
// supplies the thread indices and the atomics. No header is needed; float literals only.

struct alignas(8) Complex {  // NumPy complex64
    float re;
    float im;
};

__device__ inline Complex make_complex(float re, float im) {
    Complex value;
    value.re = re;
    value.im = im;
    return value;
}

// Index of this thread along the first axis of the launch.
__device__ inline long long global_index() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

struct Point {
    float x;
    float y;
    float z;
    float sign;  // -1 where the point was moved to its Friedel mate: the imaginary part changes sign
};

// Row-major 3 x 3 matrix times a column vector.
__device__ inline Point transform(const float* matrix, float x, float y, float z) {
    Point point;
    point.x = matrix[1] * y + matrix[2] * z + matrix[0] * x;
    point.y = matrix[4] * y + matrix[5] * z + matrix[3] * x;
    point.z = matrix[7] * y + matrix[8] * z + matrix[6] * x;
    point.sign = 1.0f;
    return point;
}

__device__ inline float squared_length(Point p) {
    return p.x * p.x + p.y * p.y + p.z * p.z;
}

// The same of row k of a table of integer frequencies.
__device__ inline Point transform(const float* matrix, const int* coordinates, int k) {
    const int* row = coordinates + 3LL * k;
    return transform(matrix, (float)row[0], (float)row[1], (float)row[2]);
}

// Only x >= 0 is stored; F(-q) = conj F(q) gives the rest.
__device__ inline Point fold(Point p) {
    if (p.x < 0.0f) {
        p.x = -p.x;
        p.y = -p.y;
        p.z = -p.z;
        p.sign = -1.0f;
    }
    return p;
}

// The eight voxels around a point: index of the lowest corner in a (n_z, n_y, n_x) array centred in z and y.
struct Cell {
    int ix;
    int iy;
    int iz;
    float fx;
    float fy;
    float fz;
};

__device__ inline Cell cell_of(Point p, int radius) {
    const float x0 = floorf(p.x), y0 = floorf(p.y), z0 = floorf(p.z);
    Cell cell;
    cell.ix = (int)x0;
    cell.iy = (int)y0 + radius;
    cell.iz = (int)z0 + radius;
    cell.fx = p.x - x0;
    cell.fy = p.y - y0;
    cell.fz = p.z - z0;
    return cell;
}

// True when all eight voxels exist; false only when the caller's r2_max exceeds what the array holds.
__device__ inline bool is_inside(Cell c, int n_z, int n_y, int n_x) {
    return c.ix + 1 < n_x && c.iy >= 0 && c.iy + 1 < n_y && c.iz >= 0 && c.iz + 1 < n_z;
}

__device__ inline long long voxel(int iz, int iy, int ix, int n_y, int n_x) {
    return ((long long)iz * n_y + iy) * n_x + ix;
}

__device__ inline float lerp(float a, float b, float fraction) {
    return a + (b - a) * fraction;
}

__device__ inline Complex lerp(Complex a, Complex b, float fraction) {
    return make_complex(lerp(a.re, b.re, fraction), lerp(a.im, b.im, fraction));
}

// Trilinear value at the cell; T is float or Complex.
template <typename T>
__device__ inline T trilinear(const T* volume, Cell c, int n_y, int n_x) {
    const T* low = volume + voxel(c.iz, c.iy, c.ix, n_y, n_x);
    const T* high = low + (long long)n_y * n_x;
    const T v00 = lerp(low[0], low[1], c.fx), v01 = lerp(low[n_x], low[n_x + 1], c.fx);
    const T v10 = lerp(high[0], high[1], c.fx), v11 = lerp(high[n_x], high[n_x + 1], c.fx);
    return lerp(lerp(v00, v01, c.fy), lerp(v10, v11, c.fy), c.fz);
}
