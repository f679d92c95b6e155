// Multislice by rows and columns: forward and adjoint of everything from the probe to the intensities.
//
// Between kernels a wave is kept in the mixed domain: y is real space, x is reciprocal space (kx). Then a slice needs
// row kernels only (inverse row transform, times the object, row transform), and a propagation or the detector needs
// column kernels only. The NumPy function of the same name in twins.py is the definition of each kernel.
//
// A wave in memory is (WINDOW, WINDOW). Of its columns only those of the `columns` lowest frequencies are in use:
// kx < (columns + 1) / 2 and kx >= WINDOW - columns / 2. They contain all that the band limit lets through; the others
// are zero, and neither stored nor transformed.
// Modes are in the order (probe mode, object mode). Before the first slice object modes share the waves.
// Gradients are dL/dRe + i dL/dIm. All transforms are unnormalised: 1/WINDOW^2 is part of `factor` and `spectrum`.
// Compile-time parameters besides those of transform.cuh: lines per block, ROWS and COLUMNS.
#define ROW_THREADS (THREADS_PER_LINE * ROWS)
#define COLUMN_THREADS (THREADS_PER_LINE * COLUMNS)
#define WINDOW_PIXELS ((size_t)WINDOW * WINDOW)

// How many registers the compiler may use. Left alone it aims at more blocks at a time and spills a few bytes: from
// compute capability 10.0 on, and for windows that are no power of two.
#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000) || (WINDOW & (WINDOW - 1)) != 0
#define ROW_BOUNDS ROW_THREADS, 1
#define COLUMN_BOUNDS COLUMN_THREADS, 1
#else
#define ROW_BOUNDS ROW_THREADS
#define COLUMN_BOUNDS COLUMN_THREADS
#endif

// Rows of a warp begin in different banks of the shared memory: a pitch of THREADS_PER_LINE modulo 16.
#define ROW_PITCH (PADDED_LINE + (16 + THREADS_PER_LINE % 16 - PADDED_LINE % 16) % 16)

__device__ __forceinline__ bool in_use(int kx, int columns) {
  return kx < (columns + 1) / 2 || kx >= WINDOW - columns / 2;
}

__device__ __forceinline__ int signed_frequency(int index) { return 2 * index < WINDOW ? index : index - WINDOW; }

// What a thread of a row kernel works on: points of one row of one pattern.
struct RowTask {
  int t, row, pattern;
  Line<1, LINES_FIT_WARPS> line;

  static constexpr int BLOCKS = WINDOW / ROWS;
  static_assert(WINDOW % ROWS == 0, "rows would be left over");

  __device__ __forceinline__ RowTask(complex_t* shared) {
    const int own = threadIdx.x / THREADS_PER_LINE;
    t = threadIdx.x % THREADS_PER_LINE;
    row = blockIdx.x % BLOCKS * ROWS + own;
    pattern = blockIdx.x / BLOCKS;
    line.memory = shared + own * ROW_PITCH;
  }

  // Offset of this row in (pattern, mode, WINDOW, WINDOW).
  __device__ __forceinline__ size_t offset(int mode, int modes) const {
    return (((size_t)pattern * modes + mode) * WINDOW + row) * WINDOW;
  }

  // Offset of this row's first pixel in a plane of the object.
  __device__ __forceinline__ size_t in_object(const int* crop_origins, size_t plane, int height, int width) const {
    return (plane * height + crop_origins[2 * pattern] + row) * width + crop_origins[2 * pattern + 1];
  }

  // Whether element e is one of this thread's points after a transform.
  __device__ __forceinline__ bool has(int e) const { return Transformed::exists(t, e); }

  __device__ __forceinline__ void load(complex_t* v, const complex_t* wave_row, int columns) const {
#pragma unroll
    for (int e = 0; e < Stored::SIZE; e++) {
      const int kx = Stored::at(t, e);
      v[e] = Stored::exists(t, e) && in_use(kx, columns) ? wave_row[kx] : make_complex(0, 0);
    }
  }

  __device__ __forceinline__ void store(const complex_t* v, complex_t* wave_row, int columns) const {
#pragma unroll
    for (int e = 0; e < Stored::SIZE; e++) {
      const int kx = Stored::at(t, e);
      if (Stored::exists(t, e) && in_use(kx, columns)) wave_row[kx] = v[e];
    }
  }
};

// What a thread of a column kernel works on: points of one column of a wave. The columns in use are counted by `place`;
// a block has COLUMNS of them. `item` counts waves, patterns or groups, whatever the kernel gives a block of columns to.
struct ColumnTask {
  int t, place, kx, item;
  bool used;
  Line<COLUMNS, false> line;

  __device__ __forceinline__ ColumnTask(complex_t* shared, int columns) {
    const int blocks = column_blocks(columns);
    const int own = threadIdx.x % COLUMNS;
    t = threadIdx.x / COLUMNS;
    place = blockIdx.x % blocks * COLUMNS + own;
    item = blockIdx.x / blocks;
    used = place < columns;  // the last block may have columns too many
    kx = 2 * place < columns ? place : (used ? place + WINDOW - columns : 0);
    line.memory = shared + own;
  }

  static __device__ __forceinline__ int column_blocks(int columns) { return (columns + COLUMNS - 1) / COLUMNS; }

  // Index of a point of this column in a (WINDOW, WINDOW) array.
  __device__ __forceinline__ int pixel(int point) const { return point * WINDOW + kx; }

  // Whether element e is one of this thread's points after a transform.
  __device__ __forceinline__ bool has(int e) const { return used && Transformed::exists(t, e); }

  __device__ __forceinline__ void load(complex_t* v, const complex_t* wave) const {
#pragma unroll
    for (int e = 0; e < Stored::SIZE; e++)
      v[e] = used && Stored::exists(t, e) ? wave[pixel(Stored::at(t, e))] : make_complex(0, 0);
  }

  __device__ __forceinline__ void add(complex_t* v, const complex_t* wave) const {
#pragma unroll
    for (int e = 0; e < Stored::SIZE; e++)
      if (used && Stored::exists(t, e)) v[e] = v[e] + wave[pixel(Stored::at(t, e))];
  }

  __device__ __forceinline__ void store(const complex_t* v, complex_t* wave) const {
#pragma unroll
    for (int e = 0; e < Stored::SIZE; e++)
      if (used && Stored::exists(t, e)) wave[pixel(Stored::at(t, e))] = v[e];
  }
};

// A factor of a pattern that is a product of one along y and one along x, such as a shift exp(-2 pi i k.d / WINDOW).
// ramps (pattern, 2, WINDOW): the factors along y and along x; null: 1.
__device__ __forceinline__ complex_t ramp(const ColumnTask& task, int ky, const complex_t* ramps, int pattern) {
  if (!ramps) return make_complex(1, 0);
  const complex_t* own = ramps + (size_t)pattern * 2 * WINDOW;
  return own[ky] * own[WINDOW + task.kx];
}

// Sums over the threads of a block, in thread 0, always in the same order.
template <int N>
__device__ __forceinline__ void block_sum(real_t* values, real_t* shared) {
#pragma unroll
  for (int n = 0; n < N; n++) shared[n * COLUMN_THREADS + threadIdx.x] = values[n];
  for (int count = COLUMN_THREADS; count > 1; count = (count + 1) / 2) {
    const int other = threadIdx.x + (count + 1) / 2;
    __syncthreads();
    if (other < count) {
#pragma unroll
      for (int n = 0; n < N; n++) shared[n * COLUMN_THREADS + threadIdx.x] += shared[n * COLUMN_THREADS + other];
    }
  }
  if (threadIdx.x > 0) return;  // others would read what thread 0 has just written, without a barrier between
#pragma unroll
  for (int n = 0; n < N; n++) values[n] = shared[n * COLUMN_THREADS];
}

// The shifted probe in the mixed domain. A block has some columns of a wave.
extern "C" __global__ void __launch_bounds__(COLUMN_BOUNDS)
    probe_forward(complex_t* wave, const complex_t* __restrict__ spectrum, const complex_t* __restrict__ ramps,
                  const complex_t* __restrict__ roots, int modes, int columns) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  const ColumnTask task(shared, columns);
  const int pattern = task.item / modes, mode = task.item % modes;
  complex_t v[PER_THREAD];
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) {
    const int ky = Transformed::at(task.t, e);
    v[e] = make_complex(0, 0);
    if (task.has(e)) v[e] = spectrum[mode * WINDOW_PIXELS + task.pixel(ky)] * ramp(task, ky, ramps, pattern);
  }
  transform_back<true>(v, task.t, roots, task.line);
  task.store(v, wave + task.item * WINDOW_PIXELS);
}

// Times a slice of the object: row by row, for all modes. `after` may be `before`, unless object modes share that
// (one_object). A block has some rows of a pattern.
extern "C" __global__ void __launch_bounds__(ROW_BOUNDS)
    row_forward(const complex_t* before, complex_t* after, const complex_t* obj, const int* crop_origins,
                const complex_t* roots, int probes, int objects, int slices, int slice, int height, int width,
                int columns_before, int columns_after, int one_object) {
  __shared__ complex_t shared[ROW_PITCH * ROWS];
  const RowTask task(shared);
  const int sharing = one_object ? 1 : objects;
  for (int o = 0; o < objects; o++) {
    const complex_t* window = obj + task.in_object(crop_origins, (size_t)o * slices + slice, height, width);
    complex_t object[Transformed::SIZE];
#pragma unroll
    for (int e = 0; e < Transformed::SIZE; e++)
      object[e] = task.has(e) ? window[Transformed::at(task.t, e)] : make_complex(0, 0);
    for (int p = 0; p < probes; p++) {
      complex_t v[PER_THREAD];
      task.load(v, before + task.offset(p * sharing + (one_object ? 0 : o), probes * sharing), columns_before);
      transform<true>(v, task.t, roots, task.line);
#pragma unroll
      for (int e = 0; e < Transformed::SIZE; e++) v[e] = v[e] * object[e];
      transform_back<false>(v, task.t, roots, task.line);
      task.store(v, after + task.offset(p * objects + o, probes * objects), columns_after);
    }
  }
}

// Propagation: columns to reciprocal space, times the propagator and the ramps of the pattern's tilt, and back. A block
// has some columns of a wave.
extern "C" __global__ void __launch_bounds__(COLUMN_BOUNDS)
    propagate(complex_t* wave, const complex_t* __restrict__ factor, const complex_t* __restrict__ ramps,
              const complex_t* __restrict__ roots, int modes, int columns, int conjugate) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  const ColumnTask task(shared, columns);
  complex_t* own = wave + task.item * WINDOW_PIXELS;
  complex_t v[PER_THREAD];
  task.load(v, own);
  transform<false>(v, task.t, roots, task.line);
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) {
    if (!task.has(e)) continue;
    const int ky = Transformed::at(task.t, e);
    complex_t h = factor[task.pixel(ky)];
    if (ramps) h = h * ramp(task, ky, ramps, task.item / modes);
    v[e] = v[e] * (conjugate ? conj(h) : h);
  }
  transform_back<true>(v, task.t, roots, task.line);
  task.store(v, own);
}

// Adjoint of propagate, which has led to `after`. slope_parts (pattern, mode, block of columns, 3): the sums of r s,
// ky s and kx s with s = Im(conj(F[wave]) F[after]); rate (WINDOW, WINDOW): r. A block has some columns of a wave.
extern "C" __global__ void __launch_bounds__(COLUMN_BOUNDS)
    propagate_adjoint(complex_t* wave, const complex_t* __restrict__ after, const complex_t* __restrict__ factor,
                      const complex_t* __restrict__ ramps, const real_t* __restrict__ rate,
                      const complex_t* __restrict__ roots, real_t* slope_parts, int modes, int columns) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  __shared__ real_t sums[3 * COLUMN_THREADS];
  const ColumnTask task(shared, columns);
  complex_t* own = wave + task.item * WINDOW_PIXELS;
  complex_t v[PER_THREAD], u[PER_THREAD];
  task.load(u, after + task.item * WINDOW_PIXELS);
  transform<false>(u, task.t, roots, task.line);
  task.load(v, own);
  transform<false>(v, task.t, roots, task.line);
  real_t slopes[3] = {0, 0, 0};
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) {
    if (!task.has(e)) continue;
    const int ky = Transformed::at(task.t, e), pixel = task.pixel(ky);
    const real_t slope = v[e].x * u[e].y - v[e].y * u[e].x;
    slopes[0] += rate[pixel] * slope;
    slopes[1] += signed_frequency(ky) * slope;
    slopes[2] += signed_frequency(task.kx) * slope;
    complex_t h = factor[pixel];
    if (ramps) h = h * ramp(task, ky, ramps, task.item / modes);
    v[e] = v[e] * conj(h);
  }
  transform_back<true>(v, task.t, roots, task.line);
  task.store(v, own);
  block_sum<3>(slopes, sums);
  if (threadIdx.x > 0) return;
  const int blocks = ColumnTask::column_blocks(columns);
#pragma unroll
  for (int n = 0; n < 3; n++) slope_parts[3 * ((size_t)task.item * blocks + blockIdx.x % blocks) + n] = slopes[n];
}

// Intensities: the sum of w |.|^2 over all modes, zero outside the band limit; weights (object mode): w, null: 1. A
// block has some columns of a pattern, also of those that are not in use.
extern "C" __global__ void __launch_bounds__(COLUMN_BOUNDS)
    detector_forward(const complex_t* __restrict__ wave, real_t* intensity, const real_t* __restrict__ mask,
                     const real_t* __restrict__ weights, const complex_t* __restrict__ roots, int modes, int objects,
                     int columns) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  ColumnTask task(shared, WINDOW);
  const bool exists = task.used;
  task.used = exists && in_use(task.kx, columns);
  const int first = task.place - threadIdx.x % COLUMNS;
  const bool all_dark = first >= (columns + 1) / 2 && first + COLUMNS <= WINDOW - columns / 2;
  real_t sum[Transformed::SIZE];
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) sum[e] = 0;
  for (int mode = 0; mode < (all_dark ? 0 : modes); mode++) {
    complex_t v[PER_THREAD];
    task.load(v, wave + ((size_t)task.item * modes + mode) * WINDOW_PIXELS);
    transform<false>(v, task.t, roots, task.line);
    const real_t weight = weights ? weights[mode % objects] : (real_t)1;
#pragma unroll
    for (int e = 0; e < Transformed::SIZE; e++) sum[e] += weight * abs2(v[e]);
  }
  if (!exists) return;
  real_t* own = intensity + task.item * WINDOW_PIXELS;
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) {
    if (!Transformed::exists(task.t, e)) continue;
    const int pixel = task.pixel(Transformed::at(task.t, e));
    own[pixel] = mask ? sum[e] * mask[pixel] : sum[e];
  }
}

// Adjoint of detector_forward, in place: the wave becomes its gradient. slope: dL/dI. A block has some columns of a
// pattern.
extern "C" __global__ void __launch_bounds__(COLUMN_BOUNDS)
    detector_adjoint(complex_t* wave, const real_t* __restrict__ slope, const real_t* __restrict__ mask,
                     const real_t* __restrict__ weights, const complex_t* __restrict__ roots, int modes, int objects,
                     int columns) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  const ColumnTask task(shared, columns);
  real_t factor[Transformed::SIZE];
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) {
    factor[e] = 0;
    if (!task.has(e)) continue;
    const int pixel = task.pixel(Transformed::at(task.t, e));
    factor[e] = 2 * slope[task.item * WINDOW_PIXELS + pixel];
    if (mask) factor[e] *= mask[pixel];
  }
  for (int mode = 0; mode < modes; mode++) {
    complex_t* own = wave + ((size_t)task.item * modes + mode) * WINDOW_PIXELS;
    const real_t weight = weights ? weights[mode % objects] : (real_t)1;
    complex_t v[PER_THREAD];
    task.load(v, own);
    transform<false>(v, task.t, roots, task.line);
#pragma unroll
    for (int e = 0; e < Transformed::SIZE; e++) v[e] = v[e] * (weight * factor[e]);
    transform_back<true>(v, task.t, roots, task.line);
    task.store(v, own);
  }
}

// Adjoint of row_forward, in place. Adds the gradient of the slice, summed over probe modes, to `gradient` (that of the
// object) by atomics, or leaves it in `parts` (pattern, object mode, WINDOW, WINDOW); with both null there is none.
// `before` is the wave that entered the slice. The gradient of the wave is left as it is unless it `leaves`. A block has
// some rows of a pattern. The object is read again for every mode, from a cache: in registers it would halve the number
// of blocks that run at a time.
extern "C" __global__ void __launch_bounds__(ROW_BOUNDS)
    row_adjoint(complex_t* wave, const complex_t* __restrict__ before, const complex_t* __restrict__ obj,
                const int* __restrict__ crop_origins, const complex_t* __restrict__ roots, complex_t* gradient,
                complex_t* parts, int probes, int objects, int slices, int slice, int height, int width,
                int columns_before, int columns_after, int one_object, int leaves) {
  __shared__ complex_t shared[ROW_PITCH * ROWS];
  const RowTask task(shared);
  const int sharing = one_object ? 1 : objects;
  for (int o = 0; o < objects; o++) {
    const size_t corner = task.in_object(crop_origins, (size_t)o * slices + slice, height, width);
    const complex_t* window = obj + corner;
    complex_t sum[Transformed::SIZE];
#pragma unroll
    for (int e = 0; e < Transformed::SIZE; e++) sum[e] = make_complex(0, 0);
    for (int p = 0; p < probes; p++) {
      complex_t* wave_row = wave + task.offset(p * objects + o, probes * objects);
      complex_t v[PER_THREAD];
      task.load(v, wave_row, columns_after);
      transform<true>(v, task.t, roots, task.line);
      if (gradient || parts) {
        complex_t u[PER_THREAD];
        task.load(u, before + task.offset(p * sharing + (one_object ? 0 : o), probes * sharing), columns_before);
        transform<true>(u, task.t, roots, task.line);
#pragma unroll
        for (int e = 0; e < Transformed::SIZE; e++) sum[e] = sum[e] + conj(u[e]) * v[e];
      }
      if (leaves) {
#pragma unroll
        for (int e = 0; e < Transformed::SIZE; e++)
          if (task.has(e)) v[e] = v[e] * conj(window[Transformed::at(task.t, e)]);
        transform_back<false>(v, task.t, roots, task.line);
        task.store(v, wave_row, columns_before);
      }
    }
    complex_t* own = parts ? parts + task.offset(o, objects) : nullptr;
#pragma unroll
    for (int e = 0; e < Transformed::SIZE; e++) {
      if (!task.has(e)) continue;
      const int x = Transformed::at(task.t, e);
      if (parts)
        own[x] = sum[e];
      else if (gradient)
        atomic_add(gradient + corner + x, sum[e]);
    }
  }
}

// Adjoint of probe_forward. Gradients of the probe's spectrum and of the shifts, in parts that are to be summed:
// spectrum_parts (group, mode, WINDOW, columns), each over group_size patterns, and shift_parts (pattern, mode, block
// of columns, 2), y and x of sum k Im(conj(gradient) spectrum). Either may be null. A block has some columns of a probe
// mode and a group of patterns; gradients of object modes add up.
extern "C" __global__ void __launch_bounds__(COLUMN_BOUNDS)
    probe_adjoint(const complex_t* __restrict__ wave, const complex_t* __restrict__ spectrum,
                  const complex_t* __restrict__ ramps, const complex_t* __restrict__ roots, complex_t* spectrum_parts,
                  real_t* shift_parts, int patterns, int modes, int objects, int columns, int group_size) {
  __shared__ complex_t shared[PADDED_LINE * COLUMNS];
  __shared__ real_t sums[2 * COLUMN_THREADS];
  const ColumnTask task(shared, columns);
  const int group = task.item / modes, mode = task.item % modes, blocks = ColumnTask::column_blocks(columns);
  const complex_t* own_spectrum = spectrum + mode * WINDOW_PIXELS;
  complex_t sum[Transformed::SIZE];
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++) sum[e] = make_complex(0, 0);
  const int end = min(patterns, (group + 1) * group_size);
  for (int pattern = group * group_size; pattern < end; pattern++) {
    const size_t item = (size_t)pattern * modes + mode;
    complex_t v[PER_THREAD];
    task.load(v, wave + item * objects * WINDOW_PIXELS);
    for (int o = 1; o < objects; o++) task.add(v, wave + (item * objects + o) * WINDOW_PIXELS);
    transform<false>(v, task.t, roots, task.line);
    real_t slopes[2] = {0, 0};
#pragma unroll
    for (int e = 0; e < Transformed::SIZE; e++) {
      if (!task.has(e)) continue;
      const int ky = Transformed::at(task.t, e);
      v[e] = v[e] * conj(ramp(task, ky, ramps, pattern));
      sum[e] = sum[e] + v[e];
      if (shift_parts) {
        const complex_t probe = own_spectrum[task.pixel(ky)];
        const real_t slope = v[e].x * probe.y - v[e].y * probe.x;
        slopes[0] += signed_frequency(ky) * slope;
        slopes[1] += signed_frequency(task.kx) * slope;
      }
    }
    if (shift_parts) {
      block_sum<2>(slopes, sums);
      real_t* own = shift_parts + 2 * (item * blocks + blockIdx.x % blocks);
      if (threadIdx.x == 0) own[0] = slopes[0], own[1] = slopes[1];
    }
  }
  if (!spectrum_parts || !task.used) return;
  complex_t* parts = spectrum_parts + ((size_t)group * modes + mode) * WINDOW * columns;
#pragma unroll
  for (int e = 0; e < Transformed::SIZE; e++)
    if (task.has(e)) parts[(size_t)Transformed::at(task.t, e) * columns + task.place] = sum[e];
}

// Adds the parts of the probe's spectrum to its gradient (mode, WINDOW, WINDOW), always in the same order.
extern "C" __global__ void __launch_bounds__(256)
    add_spectra(const complex_t* spectrum_parts, complex_t* gradient, int groups, int modes, int columns) {
  const int per_group = modes * WINDOW * columns;
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= per_group) return;
  complex_t sum = make_complex(0, 0);
  for (int group = 0; group < groups; group++) sum = sum + spectrum_parts[(size_t)group * per_group + i];
  const int place = i % columns, kx = 2 * place < columns ? place : place + WINDOW - columns;
  complex_t* own = gradient + (size_t)(i / columns) * WINDOW + kx;
  *own = *own + sum;
}

// Adds the parts of the shifts (pattern, parts, 2) to rows of the gradient of the positions, (N, 2). Patterns differ.
extern "C" __global__ void __launch_bounds__(256)
    add_shifts(const real_t* shift_parts, const int* index, double* gradient, int patterns, int parts,
               double scale) {
  const int pattern = blockIdx.x * 256 + threadIdx.x;
  if (pattern >= patterns) return;
  double along[2] = {0, 0};
  for (int part = 0; part < parts; part++)
    for (int axis = 0; axis < 2; axis++) along[axis] += shift_parts[2 * ((size_t)pattern * parts + part) + axis];
  for (int axis = 0; axis < 2; axis++) gradient[2 * (size_t)index[pattern] + axis] += scale * along[axis];
}

// Sums (row, 3) of the parts (row, parts, 3) of propagate_adjoint; a row is a gap and a pattern.
extern "C" __global__ void __launch_bounds__(256)
    sum_slopes(const real_t* slope_parts, double* sums, int rows, int parts) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= 3 * rows) return;
  double sum = 0;
  for (int part = 0; part < parts; part++) sum += slope_parts[3 * ((size_t)(i / 3) * parts + part) + i % 3];
  sums[i] = sum;
}

// The slopes (gap, pattern, 3) of r, ky and kx, as gradients of the gaps z and of the inside tilts t, columns 2 and 3 of
// (N or 1, 6): dL/dz = -scale (r - t.k) and dL/dt = scale z k, with k in rad/Angstrom (unit_y, unit_x). Either gradient
// may be null, tilts too. One block; patterns differ, and all sums have a fixed order.
extern "C" __global__ void __launch_bounds__(256)
    add_slopes(const double* slopes, const int* index, const double* tilts, const double* distances,
               double* distance_gradient, double* tilt_gradient, int patterns, int gaps, int n_distances, int one_tilt,
               double unit_y, double unit_x, double scale) {
  __shared__ double sums[3 * 256];
  for (int gap = 0; gap < gaps; gap++) {
    const int own_gap = min(gap, n_distances - 1);
    double total[3] = {0, 0, 0};
    for (int pattern = threadIdx.x; pattern < patterns; pattern += 256) {
      const double* own = slopes + 3 * ((size_t)gap * patterns + pattern);
      const double along_y = scale * unit_y * own[1], along_x = scale * unit_x * own[2];
      const size_t row = one_tilt ? 0 : 6 * (size_t)index[pattern];
      total[0] -= scale * own[0];
      if (tilts) total[0] += tilts[row + 2] * along_y + tilts[row + 3] * along_x;
      total[1] += along_y;
      total[2] += along_x;
      if (tilt_gradient && !one_tilt) {
        tilt_gradient[row + 2] += distances[own_gap] * along_y;
        tilt_gradient[row + 3] += distances[own_gap] * along_x;
      }
    }
    __syncthreads();  // thread 0 may still read the sums of the gap before
    for (int n = 0; n < 3; n++) sums[n * 256 + threadIdx.x] = total[n];
    for (int half = 128; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half)
        for (int n = 0; n < 3; n++) sums[n * 256 + threadIdx.x] += sums[n * 256 + threadIdx.x + half];
    }
    if (threadIdx.x > 0) continue;
    if (distance_gradient) distance_gradient[own_gap] += sums[0];
    if (tilt_gradient && one_tilt) {
      tilt_gradient[2] += distances[own_gap] * sums[256];
      tilt_gradient[3] += distances[own_gap] * sums[512];
    }
  }
}
