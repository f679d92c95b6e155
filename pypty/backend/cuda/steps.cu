// Arithmetic between evaluations: steps of first-order methods, and sums over vectors, each in one pass over memory.
//
// The rules of optimize/update_rules.py are the definition of every step, in the same order of operations; complex
// numbers are pairs of real ones. What is the same for all numbers (corrections of a bias, rates) is computed on the
// host, in double precision. A thread moves one number: point and moved may be the same array.
#define THREADS 256

__device__ __forceinline__ long long thread_number() { return (long long)blockIdx.x * THREADS + threadIdx.x; }

// As numpy.maximum: NaN if one of them is.
__device__ __forceinline__ real_t larger(real_t a, real_t b) { return a > b || a != a ? a : b; }

// Gradient of the loss with its L2 penalty.
__device__ __forceinline__ real_t decayed(real_t gradient, real_t decay, real_t point) {
  return decay != 0 ? gradient + decay * point : gradient;
}

// moment = kept moment + added value
__device__ __forceinline__ real_t averaged(real_t* moment, real_t kept, real_t added, real_t value) {
  return *moment = *moment * kept + value * added;
}

// adam and adamw; largest (amsgrad) may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam(const real_t* point, const real_t* gradient, real_t* moved, real_t* mean, real_t* square, real_t* largest,
         real_t shrink, real_t decay, real_t beta1, real_t new1, real_t beta2, real_t new2, real_t root, real_t eps,
         real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  const real_t m = averaged(mean + i, beta1, new1, g);
  real_t s = averaged(square + i, beta2, new2, g * g);
  if (largest) s = largest[i] = larger(largest[i], s);
  moved[i] = point[i] * shrink - m / (sqrt(s) / root + eps) * rate;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    nadam(const real_t* point, const real_t* gradient, real_t* moved, real_t* mean, real_t* square, real_t decay,
          real_t beta1, real_t new1, real_t beta2, real_t new2, real_t root, real_t eps, real_t of_gradient,
          real_t of_mean, real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  const real_t m = averaged(mean + i, beta1, new1, g);
  const real_t s = averaged(square + i, beta2, new2, g * g);
  moved[i] = point[i] - (g * of_gradient + m * of_mean) / (sqrt(s) / root + eps) * rate;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    radam(const real_t* point, const real_t* gradient, real_t* moved, real_t* mean, real_t* square, real_t decay,
          real_t beta1, real_t new1, real_t beta2, real_t new2, real_t eps, real_t rectified, real_t plain,
          real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  const real_t m = averaged(mean + i, beta1, new1, g);
  const real_t s = averaged(square + i, beta2, new2, g * g);
  moved[i] = point[i] - (rectified / (sqrt(s) + eps) + plain) * m * rate;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adamax(const real_t* point, const real_t* gradient, real_t* moved, real_t* mean, real_t* norm, real_t decay,
           real_t beta1, real_t new1, real_t beta2, real_t eps, real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  const real_t m = averaged(mean + i, beta1, new1, g);
  norm[i] = larger(norm[i] * beta2, (g < 0 ? -g : g) + eps);
  moved[i] = point[i] - m / norm[i] * rate;
}

// velocity is null without momentum.
extern "C" __global__ void __launch_bounds__(THREADS)
    sgd(const real_t* point, const real_t* gradient, real_t* moved, real_t* velocity, real_t decay, real_t momentum,
        real_t dampened, real_t rate, int nesterov, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  real_t step = decayed(gradient[i], decay, point[i]);
  if (velocity) {
    const real_t v = averaged(velocity + i, momentum, dampened, step);
    step = nesterov ? step + momentum * v : v;
  }
  moved[i] = point[i] - step * rate;
}

// mean (centered) and velocity (momentum) may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    rmsprop(const real_t* point, const real_t* gradient, real_t* moved, real_t* square, real_t* mean, real_t* velocity,
            real_t decay, real_t alpha, real_t rest, real_t eps, real_t momentum, real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  real_t s = averaged(square + i, alpha, rest, g * g);
  if (mean) {
    const real_t m = averaged(mean + i, alpha, rest, g);
    s = s - m * m;
  }
  real_t step = g / (sqrt(s) + eps);
  if (velocity) step = averaged(velocity + i, momentum, 1, step);
  moved[i] = point[i] - step * rate;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adagrad(const real_t* point, const real_t* gradient, real_t* moved, real_t* sum, real_t decay, real_t eps,
            real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  sum[i] = sum[i] + g * g;
  moved[i] = point[i] - g / (sqrt(sum[i]) + eps) * rate;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adadelta(const real_t* point, const real_t* gradient, real_t* moved, real_t* square, real_t* changes, real_t decay,
             real_t rho, real_t rest, real_t eps, real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = decayed(gradient[i], decay, point[i]);
  const real_t s = averaged(square + i, rho, rest, g * g);
  const real_t step = sqrt((changes[i] + eps) / (s + eps)) * g;
  averaged(changes + i, rho, rest, step * step);
  moved[i] = point[i] - step * rate;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    asgd(const real_t* point, const real_t* gradient, real_t* moved, real_t* average, real_t decay, real_t shrink,
         real_t weight, real_t rate, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t x = point[i] * shrink - decayed(gradient[i], decay, point[i]) * rate;
  average[i] = average[i] + (x - average[i]) * weight;
  moved[i] = x;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rprop(const real_t* point, const real_t* gradient, real_t* moved, real_t* before, real_t* length, real_t shorter,
          real_t longer, real_t low, real_t high, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const real_t g = gradient[i], product = g * before[i];
  const real_t changed = length[i] * (product > 0 ? longer : product < 0 ? shorter : 1);
  length[i] = larger(changed > high ? high : changed, low);
  // No step where the sign has just changed.
  before[i] = product < 0 ? 0 : g;
  const real_t sign = before[i] > 0 ? 1 : before[i] < 0 ? -1 : before[i];
  moved[i] = point[i] - sign * length[i];
}

// ---- amplitude and phase ------------------------------------------------------------------------------------------
// out = amplitude exp(i phase)
extern "C" __global__ void __launch_bounds__(THREADS)
    polar(const real_t* amplitude, const real_t* phase, complex_t* out, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  out[i] = make_complex(amplitude[i] * cos(phase[i]), amplitude[i] * sin(phase[i]));
}

// With G the gradient of z = a exp(i phase): along_phase = Im(G conj(z)), along_amplitude = Re(G exp(-i phase)).
// amplitude and along_amplitude may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    polar_gradient(const complex_t* gradient, const complex_t* z, const real_t* amplitude, const real_t* phase,
                   real_t* along_amplitude, real_t* along_phase, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const complex_t turned = gradient[i] * conj(z[i]);
  along_phase[i] = turned.y;
  if (!along_amplitude) return;
  const real_t a = amplitude[i];
  along_amplitude[i] = a != 0 ? turned.x / a : gradient[i].x * cos(phase[i]) + gradient[i].y * sin(phase[i]);
}

// ---- vectors of several arrays ------------------------------------------------------------------------------------
// One row of a table: two arrays, each `size` real numbers, float or double.
struct Row {
  long long one, other, size, is_double;
};

template <class T>
__device__ __forceinline__ double product(const Row& row, long long i) {
  return (double)reinterpret_cast<const T*>(row.one)[i] * (double)reinterpret_cast<const T*>(row.other)[i];
}

// parts (rows, blocks): sums of products, each by one block of threads; the order of a sum depends on `size` alone.
extern "C" __global__ void __launch_bounds__(THREADS)
    inner_products(const long long* table, double* parts, int blocks) {
  __shared__ double sums[THREADS];
  const Row row = reinterpret_cast<const Row*>(table)[blockIdx.x / blocks];
  const long long piece = (row.size + blocks - 1) / blocks, first = blockIdx.x % blocks * piece;
  const long long end = first + piece < row.size ? first + piece : row.size;
  double sum = 0;
  for (long long i = first + threadIdx.x; i < end; i += THREADS)
    sum += row.is_double ? product<double>(row, i) : product<float>(row, i);
  sums[threadIdx.x] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) parts[blockIdx.x] = sums[0];
}

// out = base + sum of factor x array; table: `count` addresses, then as many factors (the bits of double).
extern "C" __global__ void __launch_bounds__(THREADS)
    combine(const real_t* base, const long long* table, real_t* out, int count, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  real_t sum = base[i];
  for (int k = 0; k < count; k++) {
    const real_t factor = (real_t)__longlong_as_double(table[count + k]);
    sum += factor * reinterpret_cast<const real_t*>(table[k])[i];
  }
  out[i] = sum;
}

// ---- curvature of a few patterns ----------------------------------------------------------------------------------
// Numbers that are not negative have the order of their bits: a maximum does not depend on the order of blocks.
__device__ __forceinline__ void keep_largest(unsigned long long* largest, double value) {
  const unsigned long long bits = (unsigned long long)__double_as_longlong(value);
  if (value > 0 && bits > *largest) atomicMax(largest, bits);
}

// light (height, width) = sum over patterns of window (ny, nx) at their crop origins, and its largest value.
extern "C" __global__ void __launch_bounds__(THREADS)
    illuminate(const real_t* window, const int* crop_origins, double* light, unsigned long long* largest, int patterns,
               int ny, int nx, int width, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const int y = i / width, x = i % width;
  double sum = 0;
  for (int k = 0; k < patterns; k++) {
    const int row = y - crop_origins[2 * k], column = x - crop_origins[2 * k + 1];
    if (row >= 0 && row < ny && column >= 0 && column < nx) sum += window[(long long)row * nx + column];
  }
  light[i] = sum;
  keep_largest(largest, sum);
}

// seen (ny, nx) = sum over patterns of their patches of image (height, width), and its largest value.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_patches(const real_t* image, const int* crop_origins, double* seen, unsigned long long* largest, int patterns,
                int nx, int width, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  const int y = i / nx, x = i % nx;
  double sum = 0;
  for (int k = 0; k < patterns; k++)
    sum += image[(long long)(crop_origins[2 * k] + y) * width + crop_origins[2 * k + 1] + x];
  seen[i] = sum;
  keep_largest(largest, sum);
}

// out = sum over modes of w |product of the slices|^2, waves (modes, slices, size); weights (modes) may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    transmitted(const complex_t* waves, const real_t* weights, real_t* out, int modes, int slices, long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  real_t sum = 0;
  for (int mode = 0; mode < modes; mode++) {
    complex_t through = make_complex(1, 0);
    for (int s = 0; s < slices; s++) through = through * waves[((long long)mode * slices + s) * size + i];
    sum += weights ? weights[mode] * abs2(through) : abs2(through);
  }
  out[i] = sum;
}

// out = factor (value + share of the largest)
extern "C" __global__ void __launch_bounds__(THREADS)
    raised(const double* values, const unsigned long long* largest, real_t* out, double factor, double share,
           long long size) {
  const long long i = thread_number();
  if (i >= size) return;
  out[i] = (real_t)(factor * (values[i] + share * __longlong_as_double((long long)*largest)));
}

// ---- arrays at fixed addresses ------------------------------------------------------------------------------------
// to = from for up to four arrays of n words of four bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy_arrays(const unsigned int* from_1, unsigned int* to_1, long long n_1, const unsigned int* from_2,
                unsigned int* to_2, long long n_2, const unsigned int* from_3, unsigned int* to_3, long long n_3,
                const unsigned int* from_4, unsigned int* to_4, long long n_4) {
  long long i = thread_number();
  if (i < n_1) to_1[i] = from_1[i];
  i -= n_1;
  if (i >= 0 && i < n_2) to_2[i] = from_2[i];
  i -= n_2;
  if (i >= 0 && i < n_3) to_3[i] = from_3[i];
  i -= n_3;
  if (i >= 0 && i < n_4) to_4[i] = from_4[i];
}
