// One-dimensional Fourier transforms of WINDOW points, many side by side in a block.
//
// A line is transformed by THREADS_PER_LINE threads, in two or three Stockham stages (Stockham, AFIPS Conf. Proc. 28
// (1966) 229). A stage of radix R consists of WINDOW / R small transforms, which the threads share out and do in
// registers; between stages the line is redistributed through shared memory. Where the number of small transforms is no
// multiple of the number of threads, some threads have one less to do.
//
// A thread holds the points that its small transforms need: points of the first stage (Points<RADIX_1>) before a
// transform, those of the last (Points<LAST_RADIX>) after it. The way back (transform_back) takes the radices in the
// opposite order, so it begins with the points that the way there has left, and ends with those with which it began.
// Compile-time parameters: WINDOW = RADIX_1 * RADIX_2 * RADIX_3 (RADIX_3 may be 1), THREADS_PER_LINE, and PER_THREAD,
// the largest number of points that a thread holds.
#define LAST_RADIX (RADIX_3 > 1 ? RADIX_3 : RADIX_2)

// A warp that holds whole lines needs no barrier of the whole block.
#define LINES_FIT_WARPS (32 % THREADS_PER_LINE == 0)

// The points of a line that a thread holds for a stage: small transform t + THREADS_PER_LINE * q has the points
// t + THREADS_PER_LINE * q + STEP * i, i < RADIX, in the elements q + COUNT * i of the thread's array.
template <int RADIX>
struct Points {
  static constexpr int STEP = WINDOW / RADIX;
  static constexpr int COUNT = (STEP + THREADS_PER_LINE - 1) / THREADS_PER_LINE;
  static constexpr int SIZE = COUNT * RADIX;
  static constexpr bool EVEN = STEP % THREADS_PER_LINE == 0;

  static __device__ __forceinline__ constexpr int at(int t, int e) {
    return t + THREADS_PER_LINE * (e % COUNT) + STEP * (e / COUNT);
  }
  static __device__ __forceinline__ constexpr bool exists(int t, int e) {
    return EVEN || t + THREADS_PER_LINE * (e % COUNT) < STEP;
  }
};

typedef Points<RADIX_1> Stored;           // as kernels read and write lines
typedef Points<LAST_RADIX> Transformed;  // between a transform and the way back
static_assert(RADIX_1 * RADIX_2 * RADIX_3 == WINDOW, "the radices do not make up the window");
static_assert(Stored::SIZE <= PER_THREAD && Points<RADIX_2>::SIZE <= PER_THREAD && Transformed::SIZE <= PER_THREAD,
              "a thread has too many points");

// Where a point lies in shared memory. Threads write the results of the first stage FIRST places apart; if that is an
// even number they would meet in the same memory bank, so one place in FIRST is left free.
template <int FIRST>
__device__ __forceinline__ constexpr int padded(int point) {
  return FIRST % 2 == 0 ? point + point / FIRST : point;
}

#define PADDED_BY(FIRST) ((FIRST) % 2 == 0 ? WINDOW / (FIRST) : 0)
#define PADDED_LINE \
  (WINDOW + (PADDED_BY(RADIX_1) > PADDED_BY(LAST_RADIX) ? PADDED_BY(RADIX_1) : PADDED_BY(LAST_RADIX)))

// cos and sin of 2 pi k / N, computed by the compiler from their series.
template <int N>
struct Turns {
  float cosine[N], sine[N];

  __device__ constexpr Turns() : cosine(), sine() {
    for (int k = 0; k < N; k++) {
      const double x = 2 * 3.14159265358979323846 * (k <= N / 2 ? k : k - N) / N;  // at most pi
      double even = 1, odd = 1;
      for (int m = 15; m > 0; m--) {
        even = 1 - x * x / ((2 * m - 1) * (2 * m)) * even;
        odd = 1 - x * x / (2 * m * (2 * m + 1)) * odd;
      }
      cosine[k] = (float)even;
      sine[k] = (float)(x * odd);
    }
  }
};

// v * (-i), or v * i in the inverse transform.
template <bool INVERSE>
__device__ __forceinline__ complex_t quarter_turn(complex_t v) {
  return INVERSE ? make_complex(-v.y, v.x) : make_complex(v.y, -v.x);
}

// v * exp(-2 pi i k / N), or with +i in the inverse transform. The simple angles cost no multiplication.
template <int N, bool INVERSE>
__device__ __forceinline__ complex_t rotated(complex_t v, int k) {
  k = k % N;
  if (k == 0) return v;
  if (4 * k == N) return quarter_turn<INVERSE>(v);
  if (2 * k == N) return make_complex(-v.x, -v.y);
  if (4 * k == 3 * N) return quarter_turn<!INVERSE>(v);
  constexpr Turns<N> turns;
  return v * make_complex(turns.cosine[k], INVERSE ? turns.sine[k] : -turns.sine[k]);
}

// Transform of RADIX points in registers, result in natural order.
// RADIX = OUTER * INNER: OUTER-point transforms of every INNER-th point, rotations, INNER-point transforms.
template <int RADIX, bool INVERSE>
struct SmallTransform {
  static constexpr int INNER = RADIX % 5 == 0 ? 5 : RADIX % 3 == 0 ? 3 : RADIX == 8 ? 2 : 4;
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
      for (int o = 0; o < OUTER; o++) turned[INNER * o + i] = rotated<RADIX, INVERSE>(part[o], o * i);
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
struct SmallTransform<1, INVERSE> {
  static __device__ __forceinline__ void run(complex_t*) {}
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
    const complex_t turned = quarter_turn<INVERSE>(v[1] - v[2]) * 0.866025404f;  // sin(2 pi/3)
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

template <bool INVERSE>
struct SmallTransform<5, INVERSE> {
  static __device__ __forceinline__ void run(complex_t* v) {
    constexpr float cos_1 = 0.309016994f, cos_2 = -0.809016994f;  // of 2 pi/5 and 4 pi/5
    constexpr float sin_1 = 0.951056516f, sin_2 = 0.587785252f;
    const complex_t outer_sum = v[1] + v[4], inner_sum = v[2] + v[3];
    const complex_t outer = quarter_turn<INVERSE>(v[1] - v[4]), inner = quarter_turn<INVERSE>(v[2] - v[3]);
    const complex_t first = v[0] + outer_sum * cos_1 + inner_sum * cos_2;
    const complex_t second = v[0] + outer_sum * cos_2 + inner_sum * cos_1;
    const complex_t first_turned = outer * sin_1 + inner * sin_2, second_turned = outer * sin_2 - inner * sin_1;
    v[0] = v[0] + outer_sum + inner_sum;
    v[1] = first + first_turned;
    v[4] = first - first_turned;
    v[2] = second + second_turned;
    v[3] = second - second_turned;
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
  typedef Points<RADIX> Own;
#pragma unroll
  for (int q = 0; q < Own::COUNT; q++) {
    const int turn = ((t + THREADS_PER_LINE * q) % DONE) * (WINDOW / (DONE * RADIX));
    complex_t u[RADIX];
#pragma unroll
    for (int i = 0; i < RADIX; i++) {
      u[i] = v[q + Own::COUNT * i];
      if (DONE > 1 && i > 0) {
        const complex_t root = roots[turn * i];
        u[i] = u[i] * (INVERSE ? conj(root) : root);
      }
    }
    SmallTransform<RADIX, INVERSE>::run(u);
#pragma unroll
    for (int i = 0; i < RADIX; i++) v[q + Own::COUNT * i] = u[i];
  }
}

// From the results of a stage to the points of the next one; FIRST = radix of the first stage.
template <int RADIX, int DONE, int NEXT, int FIRST, class LINE>
__device__ __forceinline__ void redistribute(complex_t* v, int t, LINE line) {
  typedef Points<RADIX> Own;
  typedef Points<NEXT> After;
  line.wait();  // others may still read what an earlier transform left
#pragma unroll
  for (int q = 0; q < Own::COUNT; q++) {
    const int small = t + THREADS_PER_LINE * q;
    const int first = padded<FIRST>((small / DONE) * DONE * RADIX + small % DONE);
#pragma unroll
    for (int i = 0; i < RADIX; i++)
      if (Own::exists(t, q)) line.at(first + padded<FIRST>(DONE) * i) = v[q + Own::COUNT * i];
  }
  line.wait();
#pragma unroll
  for (int q = 0; q < After::COUNT; q++) {
    const int first = padded<FIRST>(t + THREADS_PER_LINE * q);
#pragma unroll
    for (int i = 0; i < NEXT; i++)
      if (After::exists(t, q)) v[q + After::COUNT * i] = line.at(first + padded<FIRST>(After::STEP) * i);
  }
}

template <bool INVERSE, int FIRST, int SECOND, int THIRD, class LINE>
__device__ __forceinline__ void stages(complex_t* v, int t, const complex_t* roots, LINE line) {
  small_transforms<FIRST, 1, INVERSE>(v, t, roots);
  redistribute<FIRST, 1, SECOND, FIRST>(v, t, line);
  small_transforms<SECOND, FIRST, INVERSE>(v, t, roots);
  if constexpr (THIRD > 1) {
    redistribute<SECOND, FIRST, THIRD, FIRST>(v, t, line);
    small_transforms<THIRD, FIRST * SECOND, INVERSE>(v, t, roots);
  }
}

// Unnormalised transform of a line, kernel exp(-2 pi i k x / WINDOW), +i in the inverse: from points Stored to
// Transformed.
template <bool INVERSE, class LINE>
__device__ __forceinline__ void transform(complex_t* v, int t, const complex_t* roots, LINE line) {
  stages<INVERSE, RADIX_1, RADIX_2, RADIX_3>(v, t, roots, line);
}

// The same from points Transformed to Stored.
template <bool INVERSE, class LINE>
__device__ __forceinline__ void transform_back(complex_t* v, int t, const complex_t* roots, LINE line) {
  if constexpr (RADIX_3 > 1)
    stages<INVERSE, RADIX_3, RADIX_2, RADIX_1>(v, t, roots, line);
  else
    stages<INVERSE, RADIX_2, RADIX_1, 1>(v, t, roots, line);
}
