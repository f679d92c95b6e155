// One-dimensional Fourier transforms of WINDOW points, many side by side in a block.
//
// A line is transformed by THREADS_PER_LINE threads. Before and after a transform thread t holds the points
// t + THREADS_PER_LINE * e, e = 0 ... PER_THREAD - 1, in natural order. In between there are two or three Stockham
// stages (Stockham, AFIPS Conf. Proc. 28 (1966) 229): a stage of radix R does PER_THREAD / R small transforms in
// registers, and the line is redistributed through shared memory between stages.
// Compile-time parameters: WINDOW = RADIX_1 * RADIX_2 * RADIX_3; every radix divides PER_THREAD.
#define THREADS_PER_LINE (WINDOW / PER_THREAD)

// A warp that holds whole lines needs no barrier of the whole block.
#define LINES_FIT_WARPS (32 % THREADS_PER_LINE == 0)

// Where a point lies in shared memory: one free place after RADIX_1 points, because threads that write RADIX_1 apart
// would meet in the same memory bank.
__device__ __forceinline__ constexpr int padded(int point) { return point + point / RADIX_1; }

#define PADDED_LINE (WINDOW + WINDOW / RADIX_1)

// cos(2 pi k / 48) of a k that is known when compiling: 48 is divisible by every radix in use.
__device__ __forceinline__ constexpr float cos_48(int k) {
  constexpr float quarter[13] = {1.0f,         0.991444861f, 0.965925826f, 0.923879533f, 0.866025404f,
                                 0.793353340f, 0.707106781f, 0.608761429f, 0.5f,         0.382683432f,
                                 0.258819045f, 0.130526192f, 0.0f};
  k = k % 48;
  if (k > 24) k = 48 - k;
  return k <= 12 ? quarter[k] : -quarter[24 - k];
}

// v * (-i), or v * i in the inverse transform.
template <bool INVERSE>
__device__ __forceinline__ complex_t quarter_turn(complex_t v) {
  return INVERSE ? make_complex(-v.y, v.x) : make_complex(v.y, -v.x);
}

// v * exp(-2 pi i k / 48), or with +i in the inverse transform. The simple angles cost no multiplication.
template <bool INVERSE>
__device__ __forceinline__ complex_t rotated(complex_t v, int k) {
  k = k % 48;
  if (k == 0) return v;
  if (k == 12) return quarter_turn<INVERSE>(v);
  if (k == 24) return make_complex(-v.x, -v.y);
  if (k == 36) return quarter_turn<!INVERSE>(v);
  const float sine = cos_48(k + 36);
  return v * make_complex(cos_48(k), INVERSE ? sine : -sine);
}

// Transform of RADIX points in registers, result in natural order.
// RADIX = OUTER * INNER: OUTER-point transforms of every INNER-th point, rotations, INNER-point transforms.
template <int RADIX, bool INVERSE>
struct SmallTransform {
  static constexpr int INNER = RADIX % 3 == 0 ? 3 : (RADIX == 8 ? 2 : 4);
  static constexpr int OUTER = RADIX / INNER;

  static __device__ __forceinline__ void run(complex_t* v) {
    complex_t turned[RADIX];
#pragma unroll
    for (int i = 0; i < INNER; i++) {
      complex_t part[OUTER];
#pragma unroll
      for (int o = 0; o < OUTER; o++) part[o] = v[INNER * o + i];
      SmallTransform<OUTER, INVERSE>::run(part);
#pragma unroll
      for (int o = 0; o < OUTER; o++) turned[INNER * o + i] = rotated<INVERSE>(part[o], (48 / RADIX) * o * i);
    }
#pragma unroll
    for (int o = 0; o < OUTER; o++) {
      SmallTransform<INNER, INVERSE>::run(turned + INNER * o);
#pragma unroll
      for (int i = 0; i < INNER; i++) v[o + OUTER * i] = turned[INNER * o + i];
    }
  }
};

template <bool INVERSE>
struct SmallTransform<2, INVERSE> {
  static __device__ __forceinline__ void run(complex_t* v) {
    const complex_t difference = v[0] - v[1];
    v[0] = v[0] + v[1];
    v[1] = difference;
  }
};

template <bool INVERSE>
struct SmallTransform<3, INVERSE> {
  static __device__ __forceinline__ void run(complex_t* v) {
    const complex_t sum = v[1] + v[2];
    const complex_t turned = quarter_turn<INVERSE>(v[1] - v[2]) * 0.866025404f;
    const complex_t middle = v[0] - sum * 0.5f;
    v[0] = v[0] + sum;
    v[1] = middle + turned;
    v[2] = middle - turned;
  }
};

template <bool INVERSE>
struct SmallTransform<4, INVERSE> {
  static __device__ __forceinline__ void run(complex_t* v) {
    const complex_t even_sum = v[0] + v[2], even_difference = v[0] - v[2];
    const complex_t odd_sum = v[1] + v[3], odd_turned = quarter_turn<INVERSE>(v[1] - v[3]);
    v[0] = even_sum + odd_sum;
    v[1] = even_difference + odd_turned;
    v[2] = even_sum - odd_sum;
    v[3] = even_difference - odd_turned;
  }
};

// The shared memory of one line; its points lie STRIDE apart.
template <int STRIDE, bool WITHIN_WARP>
struct Line {
  complex_t* memory;

  __device__ __forceinline__ complex_t& at(int place) { return memory[place * STRIDE]; }
  __device__ __forceinline__ void wait() {
    if (WITHIN_WARP)
      __syncwarp();
    else
      __syncthreads();
  }
};

// The small transforms of a stage; DONE = product of the radices before it.
// roots: exp(-2 pi i k / WINDOW), k < WINDOW.
template <int RADIX, int DONE, bool INVERSE>
__device__ __forceinline__ void small_transforms(complex_t* v, int t, const complex_t* roots) {
  constexpr int COUNT = PER_THREAD / RADIX;
#pragma unroll
  for (int q = 0; q < COUNT; q++) {
    const int turn = ((t + THREADS_PER_LINE * q) % DONE) * (WINDOW / (DONE * RADIX));
    complex_t u[RADIX];
#pragma unroll
    for (int i = 0; i < RADIX; i++) {
      u[i] = v[q + COUNT * i];
      if (DONE > 1 && i > 0) {
        const complex_t root = roots[turn * i];
        u[i] = u[i] * (INVERSE ? conj(root) : root);
      }
    }
    SmallTransform<RADIX, INVERSE>::run(u);
#pragma unroll
    for (int i = 0; i < RADIX; i++) v[q + COUNT * i] = u[i];
  }
}

// padded(t + THREADS_PER_LINE * e), as a place of the thread and one that is known when compiling.
__device__ __forceinline__ int place_of(int t, int e) {
  static_assert(THREADS_PER_LINE % RADIX_1 == 0 || RADIX_1 % THREADS_PER_LINE == 0,
                "points would not be evenly padded");
  if (THREADS_PER_LINE % RADIX_1 == 0) return padded(t) + padded(THREADS_PER_LINE) * e;
  return t + padded(THREADS_PER_LINE * e);
}

// From the results of a stage to the points of the next one.
template <int RADIX, int DONE, class LINE>
__device__ __forceinline__ void redistribute(complex_t* v, int t, LINE line) {
  constexpr int COUNT = PER_THREAD / RADIX;
  line.wait();  // others may still read what an earlier transform left
#pragma unroll
  for (int q = 0; q < COUNT; q++) {
    const int small = t + THREADS_PER_LINE * q;
    const int first = padded((small / DONE) * DONE * RADIX + small % DONE);
#pragma unroll
    for (int i = 0; i < RADIX; i++) line.at(first + padded(DONE) * i) = v[q + COUNT * i];
  }
  line.wait();
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) v[e] = line.at(place_of(t, e));
}

// Unnormalised transform of a line, kernel exp(-2 pi i k x / WINDOW), +i in the inverse.
template <bool INVERSE, class LINE>
__device__ __forceinline__ void transform(complex_t* v, int t, const complex_t* roots, LINE line) {
  small_transforms<RADIX_1, 1, INVERSE>(v, t, roots);
  redistribute<RADIX_1, 1>(v, t, line);
  small_transforms<RADIX_2, RADIX_1, INVERSE>(v, t, roots);
#if RADIX_3 > 1
  redistribute<RADIX_2, RADIX_1>(v, t, line);
  small_transforms<RADIX_3, RADIX_1 * RADIX_2, INVERSE>(v, t, roots);
#endif
}
