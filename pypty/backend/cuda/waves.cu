// Multislice by rows and columns: forward and adjoint of everything from the probe to the intensities.
//
// Between kernels a wave is kept in the mixed domain: y is real space, x is reciprocal space (kx). Then a slice needs
// row kernels only (inverse row transform, times the object, row transform), and a propagation or the detector needs
// column kernels only. The NumPy function of the same name in twins.py is the definition of each kernel.
//
// A wave in memory is (WINDOW, WINDOW). Of its columns only those of the `half` lowest positive and negative
// frequencies are in use, kx < half and kx >= WINDOW - half: they contain all that the band limit lets through. The
// others are zero, and neither stored nor transformed.
// Gradients are dL/dRe + i dL/dIm. All transforms are unnormalised: 1/WINDOW^2 is part of `factor` and `spectrum`.
// Compile-time parameters besides those of transform.cuh: lines per block, ROWS and COLUMNS.
#define ROW_THREADS (THREADS_PER_LINE * ROWS)
#define COLUMN_THREADS (THREADS_PER_LINE * COLUMNS)
#define WINDOW_PIXELS ((size_t)WINDOW * WINDOW)

// Rows of a warp begin in different banks of the shared memory: a pitch of THREADS_PER_LINE modulo 16.
#define ROW_PITCH (PADDED_LINE + (16 + THREADS_PER_LINE - PADDED_LINE % 16) % 16)

__device__ __forceinline__ bool in_use(int kx, int half) { return kx < half || kx >= WINDOW - half; }

__device__ __forceinline__ int signed_frequency(int index) { return index < WINDOW / 2 ? index : index - WINDOW; }

// What a thread of a row kernel works on: points t + THREADS_PER_LINE * e of one row of one pattern.
struct RowTask {
  int t, row, pattern;
  Line<1, LINES_FIT_WARPS> line;

  __device__ __forceinline__ RowTask(complex_t* shared) {
    const int own = threadIdx.x / THREADS_PER_LINE;
    t = threadIdx.x % THREADS_PER_LINE;
    row = blockIdx.x % (WINDOW / ROWS) * ROWS + own;
    pattern = blockIdx.x / (WINDOW / ROWS);
    line.memory = shared + own * ROW_PITCH;
  }

  __device__ __forceinline__ int point(int e) const { return t + THREADS_PER_LINE * e; }

  // Offset of this row in (pattern, mode, WINDOW, WINDOW).
  __device__ __forceinline__ size_t offset(int mode, int modes) const {
    return (((size_t)pattern * modes + mode) * WINDOW + row) * WINDOW;
  }

  // Offset of this row's first pixel in a plane of the object.
  __device__ __forceinline__ size_t object_offset(const int* crop_origins, int object_width) const {
    return (size_t)(crop_origins[2 * pattern] + row) * object_width + crop_origins[2 * pattern + 1];
  }

  __device__ __forceinline__ void load(complex_t* v, const complex_t* wave_row, int half) const {
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++)
      v[e] = in_use(point(e), half) ? wave_row[point(e)] : make_complex(0, 0);
  }

  __device__ __forceinline__ void store(const complex_t* v, complex_t* wave_row, int half) const {
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++)
      if (in_use(point(e), half)) wave_row[point(e)] = v[e];
  }
};

// What a thread of a column kernel works on: points t + THREADS_PER_LINE * e of one column of a wave. The columns in
// use are counted by `place`, kx = 0 ... half - 1, WINDOW - half ... WINDOW - 1; a block has COLUMNS of them.
// `item` counts waves, patterns or groups, whatever the kernel gives a block of columns to.
struct ColumnTask {
  int t, place, kx, item;
  bool used;
  Line<COLUMNS, false> line;

  __device__ __forceinline__ ColumnTask(complex_t* shared, int half) {
    const int blocks = column_blocks(half);
    const int own = threadIdx.x % COLUMNS;
    t = threadIdx.x / COLUMNS;
    place = blockIdx.x % blocks * COLUMNS + own;
    item = blockIdx.x / blocks;
    used = place < 2 * half;  // the last block may have columns too many
    kx = place < half ? place : (used ? place + WINDOW - 2 * half : 0);
    line.memory = shared + own;
  }

  static __device__ __forceinline__ int column_blocks(int half) { return (2 * half + COLUMNS - 1) / COLUMNS; }

  __device__ __forceinline__ int point(int e) const { return t + THREADS_PER_LINE * e; }

  // Index of a point of this column in a (WINDOW, WINDOW) array.
  __device__ __forceinline__ int pixel(int e) const { return point(e) * WINDOW + kx; }

  __device__ __forceinline__ void load(complex_t* v, const complex_t* wave) const {
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) v[e] = used ? wave[pixel(e)] : make_complex(0, 0);
  }

  __device__ __forceinline__ void store(const complex_t* v, complex_t* wave) const {
    if (!used) return;
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) wave[pixel(e)] = v[e];
  }
};

// The sub-pixel shift of a pattern, exp(-2 pi i k.d / WINDOW); 1 where there is none.
// ramps (pattern, 2, WINDOW): the factors along y and along x.
__device__ __forceinline__ complex_t ramp(const ColumnTask& task, int e, const complex_t* ramps, int pattern) {
  if (!ramps) return make_complex(1, 0);
  const complex_t* own = ramps + (size_t)pattern * 2 * WINDOW;
  return own[task.point(e)] * own[WINDOW + task.kx];
}

// The shifted probe in the mixed domain. A block has some columns of a wave.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    probe_forward(complex_t* wave, const complex_t* spectrum, const complex_t* ramps,
                  const complex_t* roots, int modes, int half) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  const ColumnTask task(shared, half);
  const int pattern = task.item / modes, mode = task.item % modes;
  complex_t v[PER_THREAD];
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++)
    v[e] = spectrum[mode * WINDOW_PIXELS + task.pixel(e)] * ramp(task, e, ramps, pattern);
  transform<true>(v, task.t, roots, task.line);
  task.store(v, wave + task.item * WINDOW_PIXELS);
}

// Times a slice of the object: row by row, for all modes. Keeps the wave entering the slice in `incoming`, unless
// that is null. A block has some rows of a pattern.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    row_forward(complex_t* wave, complex_t* incoming, const complex_t* obj, const int* crop_origins,
                const complex_t* roots, int modes, int object_width, int half_in, int half_out) {
  __shared__ complex_t shared[ROW_PITCH * ROWS];
  const RowTask task(shared);
  const complex_t* window = obj + task.object_offset(crop_origins, object_width);
  complex_t object[PER_THREAD];
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) object[e] = window[task.point(e)];
  for (int mode = 0; mode < modes; mode++) {
    complex_t* wave_row = wave + task.offset(mode, modes);
    complex_t v[PER_THREAD];
    task.load(v, wave_row, half_in);
    transform<true>(v, task.t, roots, task.line);
    if (incoming) {
      complex_t* kept = incoming + task.offset(mode, modes);
#pragma unroll
      for (int e = 0; e < PER_THREAD; e++) kept[task.point(e)] = v[e];
    }
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) v[e] = v[e] * object[e];
    transform<false>(v, task.t, roots, task.line);
    task.store(v, wave_row, half_out);
  }
}

// Propagation: columns to reciprocal space, times the propagator, and back. A block has some columns of a wave.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    propagate(complex_t* wave, const complex_t* factor, const complex_t* roots, int half, int conjugate) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  const ColumnTask task(shared, half);
  complex_t* own = wave + task.item * WINDOW_PIXELS;
  complex_t v[PER_THREAD];
  task.load(v, own);
  transform<false>(v, task.t, roots, task.line);
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) {
    const complex_t h = factor[task.pixel(e)];
    v[e] = v[e] * (conjugate ? conj(h) : h);
  }
  transform<true>(v, task.t, roots, task.line);
  task.store(v, own);
}

// Intensities: the sum of |.|^2 over all modes, zero outside the band limit. A block has some columns of a pattern,
// also of those that are not in use.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    detector_forward(const complex_t* wave, real_t* intensity, const real_t* mask, const complex_t* roots, int modes,
                     int half) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  ColumnTask task(shared, WINDOW / 2);
  task.used = in_use(task.kx, half);
  const int first = task.kx - threadIdx.x % COLUMNS;
  const bool all_dark = first >= half && first + COLUMNS <= WINDOW - half;
  real_t sum[PER_THREAD];
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) sum[e] = 0;
  for (int mode = 0; mode < (all_dark ? 0 : modes); mode++) {
    complex_t v[PER_THREAD];
    task.load(v, wave + ((size_t)task.item * modes + mode) * WINDOW_PIXELS);
    transform<false>(v, task.t, roots, task.line);
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) sum[e] += abs2(v[e]);
  }
  real_t* own = intensity + task.item * WINDOW_PIXELS;
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) own[task.pixel(e)] = mask ? sum[e] * mask[task.pixel(e)] : sum[e];
}

// Adjoint of detector_forward, in place: the wave becomes its gradient. slope: dL/dI. A block has some columns of a
// pattern.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    detector_adjoint(complex_t* wave, const real_t* slope, const real_t* mask, const complex_t* roots, int modes,
                     int half) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  const ColumnTask task(shared, half);
  real_t weight[PER_THREAD];
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) {
    weight[e] = 2 * slope[task.item * WINDOW_PIXELS + task.pixel(e)];
    if (mask) weight[e] *= mask[task.pixel(e)];
  }
  for (int mode = 0; mode < modes; mode++) {
    complex_t* own = wave + ((size_t)task.item * modes + mode) * WINDOW_PIXELS;
    complex_t v[PER_THREAD];
    task.load(v, own);
    transform<false>(v, task.t, roots, task.line);
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) v[e] = v[e] * weight[e];
    transform<true>(v, task.t, roots, task.line);
    task.store(v, own);
  }
}

// The largest |re| or |im| of all blocks. Bits of positive floats have the order of the numbers, and NaN is above all.
__device__ __forceinline__ void raise_largest(unsigned int* largest, complex_t value) {
  const unsigned int bits = max(__float_as_uint(fabsf(value.x)), __float_as_uint(fabsf(value.y)));
  if (bits > *largest) atomicMax(largest, bits);
}

// Adjoint of row_forward, in place. Adds the gradient of the slice, summed over modes, to `gradient` by atomics, or
// leaves it in `window_gradient` (pattern, WINDOW, WINDOW) and raises `largest` (fixed_scatter comes next); with both
// null there is none. The wave is left as it is when half_out = 0. A block has some rows of a pattern. The object is
// read again for every mode, from a cache: in registers it would halve the number of blocks that run at a time.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    row_adjoint(complex_t* wave, const complex_t* incoming, const complex_t* obj, const int* crop_origins,
                const complex_t* roots, complex_t* gradient, complex_t* window_gradient, unsigned int* largest,
                int modes, int object_width, int half_in, int half_out) {
  __shared__ complex_t shared[ROW_PITCH * ROWS];
  const RowTask task(shared);
  const size_t corner = task.object_offset(crop_origins, object_width);
  const complex_t* window = obj + corner;
  const bool refined = gradient || window_gradient;
  complex_t sum[PER_THREAD];
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) sum[e] = make_complex(0, 0);
  for (int mode = 0; mode < modes; mode++) {
    complex_t* wave_row = wave + task.offset(mode, modes);
    complex_t v[PER_THREAD];
    task.load(v, wave_row, half_in);
    transform<true>(v, task.t, roots, task.line);
    if (refined) {
      const complex_t* kept = incoming + task.offset(mode, modes);
#pragma unroll
      for (int e = 0; e < PER_THREAD; e++) sum[e] = sum[e] + conj(kept[task.point(e)]) * v[e];
    }
    if (half_out > 0) {
#pragma unroll
      for (int e = 0; e < PER_THREAD; e++) v[e] = v[e] * conj(window[task.point(e)]);
      transform<false>(v, task.t, roots, task.line);
      task.store(v, wave_row, half_out);
    }
  }
  if (window_gradient) {
    complex_t* own = window_gradient + task.offset(0, 1);
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) {
      own[task.point(e)] = sum[e];
      raise_largest(largest, sum[e]);
    }
  } else if (gradient) {
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) atomic_add(gradient + corner + task.point(e), sum[e]);
  }
}

// Sum over the threads of a block, in thread 0, always in the same order.
__device__ __forceinline__ complex_t block_sum(complex_t value, complex_t* shared) {
  shared[threadIdx.x] = value;
  for (int half = COLUMN_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) shared[threadIdx.x] = shared[threadIdx.x] + shared[threadIdx.x + half];
  }
  return shared[0];  // of use to thread 0 only
}

// Adjoint of probe_forward. Gradients of the probe's spectrum and of the shifts, in parts that are to be summed:
// spectrum_parts (group, mode, WINDOW, 2 half), each over group_size patterns, and shift_parts (pattern, mode, block
// of columns), y and x of sum k Im(conj(gradient) spectrum). Either may be null. A block has some columns of a mode
// and a group of patterns.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    probe_adjoint(const complex_t* wave, const complex_t* spectrum, const complex_t* ramps,
                  const complex_t* roots, complex_t* spectrum_parts, complex_t* shift_parts, int patterns, int modes,
                  int half, int group_size) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  __shared__ complex_t sums[COLUMN_THREADS];
  const ColumnTask task(shared, half);
  const int group = task.item / modes, mode = task.item % modes;
  const complex_t* own_spectrum = spectrum + mode * WINDOW_PIXELS;
  complex_t sum[PER_THREAD];
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) sum[e] = make_complex(0, 0);
  const int end = min(patterns, (group + 1) * group_size);
  for (int pattern = group * group_size; pattern < end; pattern++) {
    const int item = pattern * modes + mode;
    complex_t v[PER_THREAD];
    task.load(v, wave + item * WINDOW_PIXELS);
    transform<false>(v, task.t, roots, task.line);
    real_t total = 0, along_y = 0;
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) {
      v[e] = v[e] * conj(ramp(task, e, ramps, pattern));
      sum[e] = sum[e] + v[e];
    }
    if (shift_parts) {
#pragma unroll
      for (int e = 0; e < PER_THREAD; e++) {
        const complex_t probe = own_spectrum[task.pixel(e)];
        const real_t product = v[e].x * probe.y - v[e].y * probe.x;
        total += product;
        along_y += product * signed_frequency(task.point(e));
      }
      const complex_t slope = block_sum(make_complex(total * signed_frequency(task.kx), along_y), sums);
      const int blocks = ColumnTask::column_blocks(half);
      if (threadIdx.x == 0) shift_parts[item * blocks + blockIdx.x % blocks] = slope;
    }
  }
  if (!spectrum_parts || !task.used) return;
  complex_t* parts = spectrum_parts + ((size_t)group * modes + mode) * WINDOW * 2 * half;
#pragma unroll
  for (int e = 0; e < PER_THREAD; e++) parts[task.point(e) * 2 * half + task.place] = sum[e];
}

// Adds the parts of the probe's spectrum to its gradient (mode, WINDOW, WINDOW), always in the same order.
extern "C" __global__ void __launch_bounds__(256)
    add_spectra(const complex_t* spectrum_parts, complex_t* gradient, int groups, int modes, int half) {
  const int width = 2 * half, per_group = modes * WINDOW * width;
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= per_group) return;
  complex_t sum = make_complex(0, 0);
  for (int group = 0; group < groups; group++) sum = sum + spectrum_parts[(size_t)group * per_group + i];
  const int place = i % width, kx = place < half ? place : place + WINDOW - width;
  complex_t* own = gradient + (size_t)(i / width) * WINDOW + kx;
  *own = *own + sum;
}

// Adds the parts of the shifts to rows of the gradient of the positions, (N, 2): y and x. Patterns differ.
extern "C" __global__ void __launch_bounds__(256)
    add_shifts(const complex_t* shift_parts, const int* index, double* gradient, int patterns, int parts,
               double scale) {
  const int pattern = blockIdx.x * 256 + threadIdx.x;
  if (pattern >= patterns) return;
  double along_y = 0, along_x = 0;
  for (int part = 0; part < parts; part++) {
    const complex_t own = shift_parts[(size_t)pattern * parts + part];
    along_y += own.y;
    along_x += own.x;
  }
  double* row = gradient + 2 * (size_t)index[pattern];
  row[0] += scale * along_y;
  row[1] += scale * along_x;
}

// 2^k such that a sum of `terms` numbers up to `largest`, each times 2^k, stays below 2^62.
__device__ __forceinline__ int fixed_exponent(unsigned int largest, int terms) {
  int bits = 0;
  while ((1LL << bits) < terms) bits++;
  const int exponent = (int)(largest >> 23) - 126;  // of a float: below 2^exponent, also where it is subnormal
  return 62 - bits - exponent;
}

// Deterministic gradient of a slice, first half: window gradients as integers, whose sum has no order.
// fixed (Y, X) pairs, one thread per pixel of each window.
extern "C" __global__ void __launch_bounds__(256)
    fixed_scatter(const complex_t* window_gradient, const int* crop_origins, const unsigned int* largest,
                  long long* fixed, int patterns, int object_width) {
  const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= patterns * WINDOW_PIXELS) return;
  const int x = i % WINDOW, y = i / WINDOW % WINDOW, pattern = i / WINDOW_PIXELS;
  const double scale = scalbn(1.0, fixed_exponent(*largest, patterns));
  const size_t row = crop_origins[2 * pattern] + y, column = crop_origins[2 * pattern + 1] + x;
  unsigned long long* place = reinterpret_cast<unsigned long long*>(fixed) + 2 * (row * object_width + column);
  atomicAdd(place, (unsigned long long)__double2ll_rn(window_gradient[i].x * scale));
  atomicAdd(place + 1, (unsigned long long)__double2ll_rn(window_gradient[i].y * scale));
}

// Second half: the sums as numbers, added to the gradient of the slice; NaN if a part was not finite.
extern "C" __global__ void __launch_bounds__(256)
    fixed_add(const long long* fixed, const unsigned int* largest, complex_t* gradient, int patterns,
              long long pixels) {
  const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= pixels) return;
  const double scale = scalbn(1.0, -fixed_exponent(*largest, patterns));
  const real_t finite = *largest < 0x7f800000u ? 0.0f : __uint_as_float(0x7fc00000u);
  gradient[i].x += (real_t)(fixed[2 * i] * scale) + finite;
  gradient[i].y += (real_t)(fixed[2 * i + 1] * scale) + finite;
}
