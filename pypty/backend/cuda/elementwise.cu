// Operations between two-dimensional transforms, each in one pass over the waves, for windows of any shape (NY, NX).
//
// The NumPy function of the same name in twins.py is the definition of each kernel. Waves are (pattern, mode, NY, NX).
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

  __device__ __forceinline__ size_t in_object(const int* corners, int object_width) const {
    return (size_t)(corners[2 * pattern] + y) * object_width + corners[2 * pattern + 1] + x;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    transmit(const complex_t* wave, const complex_t* obj, const int* corners, complex_t* out, int patterns, int modes,
             int ny, int nx, int object_width, int shared_wave) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  const complex_t object = obj[pixel.in_object(corners, object_width)];
  for (int mode = 0; mode < modes; mode++) {
    const size_t place = pixel.in_wave(mode, modes);
    out[place] = wave[shared_wave ? mode * pixel.n_pixels + pixel.in_window : place] * object;
  }
}

// gradient may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    adjoint_transmit(complex_t* grad, const complex_t* incoming, const complex_t* obj, const int* corners,
                     complex_t* gradient, int patterns, int modes, int ny, int nx, int object_width,
                     int shared_wave) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  const size_t place_in_object = pixel.in_object(corners, object_width);
  const complex_t object = conj(obj[place_in_object]);
  complex_t sum = make_complex(0, 0);
  for (int mode = 0; mode < modes; mode++) {
    const size_t place = pixel.in_wave(mode, modes);
    const complex_t own = grad[place];
    if (gradient) {
      const complex_t before = incoming[shared_wave ? mode * pixel.n_pixels + pixel.in_window : place];
      sum = sum + conj(before) * own;
    }
    grad[place] = own * object;
  }
  if (gradient) atomic_add(gradient + place_in_object, sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    multiply_spectrum(complex_t* wave, const complex_t* factor, int waves, int ny, int nx, int conjugate) {
  const Pixel pixel(waves, ny, nx);
  if (!pixel.exists) return;
  const complex_t h = factor[pixel.in_window];
  complex_t* own = wave + pixel.in_wave(0, 1);
  *own = *own * (conjugate ? conj(h) : h);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_abs2(const complex_t* wave, real_t* out, int patterns, int modes, int ny, int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  real_t sum = 0;
  for (int mode = 0; mode < modes; mode++) sum += abs2(wave[pixel.in_wave(mode, modes)]);
  out[pixel.in_wave(0, 1)] = sum;
}

// mask may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    scale_by_slope(complex_t* wave, const real_t* slope, const real_t* mask, int patterns, int modes, int ny, int nx) {
  const Pixel pixel(patterns, ny, nx);
  if (!pixel.exists) return;
  real_t weight = 2 * slope[pixel.in_wave(0, 1)];
  if (mask) weight *= mask[pixel.in_window];
  for (int mode = 0; mode < modes; mode++) {
    complex_t* own = wave + pixel.in_wave(mode, modes);
    *own = *own * weight;
  }
}
