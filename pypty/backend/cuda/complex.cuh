// Complex numbers of the precision REAL (float or double). Aligned, so that one load fetches both parts.
#ifndef REAL
#define REAL float
#endif

typedef REAL real_t;

struct alignas(2 * sizeof(REAL)) complex_t {
  real_t x, y;
};

__device__ __forceinline__ complex_t make_complex(real_t x, real_t y) {
  complex_t z;
  z.x = x;
  z.y = y;
  return z;
}

__device__ __forceinline__ complex_t operator+(complex_t a, complex_t b) {
  return make_complex(a.x + b.x, a.y + b.y);
}

__device__ __forceinline__ complex_t operator-(complex_t a, complex_t b) {
  return make_complex(a.x - b.x, a.y - b.y);
}

__device__ __forceinline__ complex_t operator*(complex_t a, complex_t b) {
  return make_complex(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

__device__ __forceinline__ complex_t operator*(complex_t a, real_t factor) {
  return make_complex(a.x * factor, a.y * factor);
}

__device__ __forceinline__ complex_t conj(complex_t a) { return make_complex(a.x, -a.y); }

__device__ __forceinline__ real_t abs2(complex_t a) { return a.x * a.x + a.y * a.y; }

// Add to an element that several blocks change. Devices of compute capability 9.0 add both parts at once.
__device__ __forceinline__ void atomic_add(complex_t* place, complex_t value) {
  real_t* parts = reinterpret_cast<real_t*>(place);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (sizeof(real_t) == sizeof(float)) {
    atomicAdd(reinterpret_cast<float2*>(place), make_float2((float)value.x, (float)value.y));
    return;
  }
#endif
  atomicAdd(parts, value.x);
  atomicAdd(parts + 1, value.y);
}
