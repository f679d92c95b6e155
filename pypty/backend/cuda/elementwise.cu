// Operations between two-dimensional transforms, each in one pass over the waves, for windows of any shape (NY, NX).
//
// The NumPy function of the same name in twins.py is the definition of each kernel. Waves are (pattern, probe mode,
// object mode, NY, NX); the object is (object mode, slice, height, width). On the way back waves are C, the complex
// conjugate of the gradient dL/dRe + i dL/dIm (model/fused.py).
// A thread has one pixel of a window and goes through all modes: what the modes share is read once. Threads of a block
// lie side by side on a row of pixels; the last block may have some that do nothing.
#define THREADS 256

// The pixel of a thread: which pattern, and where in the window.
struct Pixel {
  int pattern, y, x;
  size_t in_window, n_pixels;
  bool exists;

  __device__ __forceinline__ Pixel(int patterns, int ny, int nx) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    n_pixels = (size_t)ny * nx;
    exists = i < patterns * n_pixels;
    pattern = i / n_pixels;
    in_window = i % n_pixels;
    y = in_window / nx;
    x = in_window % nx;
  }

  __device__ __forceinline__ size_t in_wave(int mode, int modes) const {
    return ((size_t)pattern * modes + mode) * n_pixels + in_window;
  }

  // In a plane of the object.
  __device__ __forceinline__ size_t in_object(const int* crop_origins, size_t plane, int height, int width) const {
    return (plane * height + crop_origins[2 * pattern] + y) * width + crop_origins[2 * pattern + 1] + x;
  }
};

// Where the wave entering a slice has the pixel of (probe mode, object mode): before the first slice patterns may share
// it, and object modes do.
struct Incoming {
  int probes, objects;
  bool one_pattern;

  __device__ __forceinline__ size_t place(const Pixel& pixel, int probe, int object) const {
    const int mode = probe * objects + (objects > 1 ? object : 0);
    return one_pattern ? mode * pixel.n_pixels + pixel.in_window : pixel.in_wave(mode, probes * objects);
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    transmit(const complex_t* wave, const complex_t* obj, const int* crop_origins, complex_t* out, int patterns, int probes,
             int objects, int ny, int nx, int slices, int slice, int height, int width, int one_pattern,
             int one_object) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  const Incoming incoming{probes, one_object ? 1 : objects, one_pattern != 0};
  for (int o = 0; o < objects; o++) {
    const complex_t object = obj[pixel.in_object(crop_origins, (size_t)o * slices + slice, height, width)];
    for (int p = 0; p < probes; p++)
      out[pixel.in_wave(p * objects + o, probes * objects)] = wave[incoming.place(pixel, p, o)] * object;
  }
}

// gradient is added to by atomics, or parts (pattern, object mode, NY, NX) are written; with both null neither.
extern "C" __global__ void __launch_bounds__(THREADS)
    transmit_back(complex_t* wave, const complex_t* before, const complex_t* obj, const int* crop_origins,
                  complex_t* gradient, complex_t* parts, int patterns, int probes, int objects, int ny, int nx,
                  int slices, int slice, int height, int width, int one_pattern, int one_object) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  const Incoming incoming{probes, one_object ? 1 : objects, one_pattern != 0};
  for (int o = 0; o < objects; o++) {
    const size_t in_object = pixel.in_object(crop_origins, (size_t)o * slices + slice, height, width);
    const complex_t object = obj[in_object];
    complex_t sum = make_complex(0, 0);
#pragma unroll 2
    for (int p = 0; p < probes; p++) {
      complex_t* own = wave + pixel.in_wave(p * objects + o, probes * objects);
      if (gradient || parts) sum = sum + before[incoming.place(pixel, p, o)] * *own;
      *own = *own * object;
    }
    if (parts)
      parts[pixel.in_wave(o, objects)] = conj(sum);
    else if (gradient)
      atomic_add(gradient + in_object, conj(sum));
  }
}

// factor (NY, NX) and ramps (pattern, NY + NX), factors along y and along x, may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    multiply_spectrum(complex_t* wave, const complex_t* factor, const complex_t* ramps, int patterns, int modes, int ny,
                      int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  complex_t h = factor ? factor[pixel.in_window] : make_complex(1, 0);
  if (ramps) {
    const complex_t* own = ramps + (size_t)pixel.pattern * (ny + nx);
    h = h * own[pixel.y] * own[ny + pixel.x];
  }
  for (int mode = 0; mode < modes; mode++) {
    complex_t* own = wave + pixel.in_wave(mode, modes);
    *own = *own * h;
  }
}

// The spectrum (mode, NY, NX) of the probe, shifted for every pattern.
extern "C" __global__ void __launch_bounds__(THREADS)
    shift_probe(const complex_t* spectrum, const complex_t* ramps, complex_t* out, int patterns, int modes, int ny,
                int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  const complex_t* own = ramps + (size_t)pixel.pattern * (ny + nx);
  const complex_t ramp = own[pixel.y] * own[ny + pixel.x];
  for (int mode = 0; mode < modes; mode++)
    out[pixel.in_wave(mode, modes)] = spectrum[mode * pixel.n_pixels + pixel.in_window] * ramp;
}

// mask (NY, NX) and weights (objects) may be null; the object modes of a probe mode follow each other.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_abs2(const complex_t* wave, const real_t* mask, const real_t* weights, real_t* out, int patterns, int modes,
             int objects, int ny, int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  real_t sum = 0;
  for (int mode = 0; mode < modes; mode++) {
    const real_t square = abs2(wave[pixel.in_wave(mode, modes)]);
    sum += weights ? weights[mode % objects] * square : square;
  }
  out[pixel.in_wave(0, 1)] = mask ? sum * mask[pixel.in_window] : sum;
}

// mask and weights may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    conjugate_times(complex_t* wave, const real_t* slope, const real_t* mask, const real_t* weights, int patterns,
                    int modes, int objects, int ny, int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  real_t weight = 2 * slope[pixel.in_wave(0, 1)];
  if (mask) weight *= mask[pixel.in_window];
  for (int mode = 0; mode < modes; mode++) {
    complex_t* own = wave + pixel.in_wave(mode, modes);
    *own = conj(*own) * (weights ? weight * weights[mode % objects] : weight);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    imaginary_sum(const complex_t* a, const complex_t* b, real_t* out, int patterns, int modes, int ny, int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  real_t sum = 0;
#pragma unroll 2
  for (int mode = 0; mode < modes; mode++) {
    const complex_t one = a[pixel.in_wave(mode, modes)], other = b[pixel.in_wave(mode, modes)];
    sum += one.x * other.y + one.y * other.x;
  }
  out[pixel.in_wave(0, 1)] = sum;
}

// exp(-2 pi i f.d), d = position - corner, in double precision: ramps (pattern, NY + NX) along y and along x.
// frequencies (NY + NX) in units of 1/pixel; one position for all patterns, or a row for each.
extern "C" __global__ void __launch_bounds__(THREADS)
    shift_ramps(const double* positions, const int* index, const int* crop_origins, const double* frequencies,
                complex_t* ramps, int patterns, int ny, int nx, int one_position) {
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  const int points = ny + nx;
  if (i >= (size_t)patterns * points) return;
  const int pattern = i / points, point = i % points, axis = point >= ny;
  const size_t row = one_position ? 0 : index[pattern];
  const double distance = positions[2 * row + axis] - crop_origins[2 * pattern + axis];
  double sine, cosine;
  sincospi(-2 * frequencies[point] * distance, &sine, &cosine);
  ramps[i] = make_complex((real_t)cosine, (real_t)sine);
}

// exp(-2 pi i z q.t) of every gap z: the sideways shift by an inside tilt t, columns 2 and 3 of (N or 1, 6), in double
// precision. ramps (gap, pattern, NY + NX), frequencies q (NY + NX) in 1/Angstrom; the last distance also holds for all
// further gaps.
extern "C" __global__ void __launch_bounds__(THREADS)
    tilt_ramps(const double* tilts, const int* index, const double* distances, const double* frequencies,
               complex_t* ramps, int patterns, int gaps, int n_distances, int ny, int nx, int one_tilt) {
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  const int points = ny + nx;
  if (i >= (size_t)gaps * patterns * points) return;
  const int gap = i / ((size_t)patterns * points), pattern = i / points % patterns, point = i % points;
  const size_t row = one_tilt ? 0 : index[pattern];
  const double shift = distances[min(gap, n_distances - 1)] * tilts[6 * row + 2 + (point >= ny)];
  double sine, cosine;
  sincospi(-2 * frequencies[point] * shift, &sine, &cosine);
  ramps[i] = make_complex((real_t)cosine, (real_t)sine);
}

// out (pattern, MY, NX) = matrix (MY, NY) times in (pattern, NY, NX).
extern "C" __global__ void __launch_bounds__(THREADS)
    matrix_along_y(const real_t* matrix, const real_t* in, real_t* out, int patterns, int my, int ny, int nx) {
  const Pixel pixel(patterns, my, nx);
  if (!pixel.exists) return;
  const real_t* row = matrix + (size_t)pixel.y * ny;
  const real_t* column = in + (size_t)pixel.pattern * ny * nx + pixel.x;
  real_t sum = 0;
  for (int j = 0; j < ny; j++) sum += row[j] * column[(size_t)j * nx];
  out[pixel.in_wave(0, 1)] = sum;
}

// out (pattern, NY, MX) = in (pattern, NY, NX) times the transposed matrix (NX, MX).
extern "C" __global__ void __launch_bounds__(THREADS)
    matrix_along_x(const real_t* transposed, const real_t* in, real_t* out, int patterns, int ny, int mx, int nx) {
  const Pixel pixel(patterns, ny, mx);
  if (!pixel.exists) return;
  const real_t* row = in + ((size_t)pixel.pattern * ny + pixel.y) * nx;
  real_t sum = 0;
  for (int j = 0; j < nx; j++) sum += row[j] * transposed[(size_t)j * mx + pixel.x];
  out[pixel.in_wave(0, 1)] = sum;
}

// ---- sums whose order does not matter: as integers ----------------------------------------------------------------
// Bits of numbers without their sign (zero has one, too) have the order of the numbers, and NaN is above all.
__device__ __forceinline__ unsigned long long bits_of(real_t value) {
  return (unsigned long long)__double_as_longlong((double)value) & 0x7fffffffffffffffULL;
}

// The largest |re| or |im| of all parts.
extern "C" __global__ void __launch_bounds__(THREADS)
    largest_part(const complex_t* parts, unsigned long long* largest, long long count) {
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= (size_t)count) return;
  const unsigned long long bits = max(bits_of(parts[i].x), bits_of(parts[i].y));
  if (bits > *largest) atomicMax(largest, bits);
}

// 2^k such that a sum of `terms` numbers up to `largest`, each times 2^k, stays below 2^62.
__device__ __forceinline__ int fixed_exponent(unsigned long long largest, int terms) {
  int bits = 0;
  while ((1LL << bits) < terms) bits++;
  const int exponent = (int)(largest >> 52) - 1022;  // of a double: below 2^exponent
  return min(62 - bits - exponent, 1000);
}

// Adds parts (pattern, object mode, NY, NX), as integers, to fixed (object mode, height, width), pairs.
extern "C" __global__ void __launch_bounds__(THREADS)
    fixed_scatter(const complex_t* parts, const int* crop_origins, const unsigned long long* largest, long long* fixed,
                  int patterns, int objects, int ny, int nx, int height, int width) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  const double scale = scalbn(1.0, fixed_exponent(*largest, patterns));
  for (int o = 0; o < objects; o++) {
    const complex_t part = parts[pixel.in_wave(o, objects)];
    unsigned long long* place = reinterpret_cast<unsigned long long*>(fixed);
    place += 2 * pixel.in_object(crop_origins, o, height, width);
    atomicAdd(place, (unsigned long long)__double2ll_rn(part.x * scale));
    atomicAdd(place + 1, (unsigned long long)__double2ll_rn(part.y * scale));
  }
}

// The sums as numbers, added to a slice of gradient (object mode, slice, plane); NaN if a part was not finite.
extern "C" __global__ void __launch_bounds__(THREADS)
    fixed_add(const long long* fixed, const unsigned long long* largest, complex_t* gradient, int patterns, int objects,
              int slices, int slice, long long plane) {
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= (size_t)objects * plane) return;
  const double scale = scalbn(1.0, -fixed_exponent(*largest, patterns));
  const double zero = __longlong_as_double((long long)*largest);
  const real_t finite = (real_t)(zero - zero);  // NaN for infinity and NaN
  complex_t* own = gradient + (i / plane * slices + slice) * plane + i % plane;
  own->x += (real_t)(fixed[2 * i] * scale) + finite;
  own->y += (real_t)(fixed[2 * i + 1] * scale) + finite;
}
