// Loss, its slope and the squared errors of patterns, in one pass over intensities and data.
//
// objective/noise.py is the definition of every formula: D = measured, I = modelled counts. Data keep the detector's own
// type, DATA (the name of a NumPy type). A block has some pixels of one pattern, and leaves their sums for add_parts;
// the order of all sums is fixed.
#ifndef DATA
#define DATA uint16
#endif
#define TYPE_uint8 unsigned char
#define TYPE_int8 signed char
#define TYPE_uint16 unsigned short
#define TYPE_int16 short
#define TYPE_uint32 unsigned int
#define TYPE_int32 int
#define TYPE_float32 float
#define TYPE_float64 double
#define TYPE_OF(name) TYPE_##name
#define TYPE(name) TYPE_OF(name)
typedef TYPE(DATA) data_t;

#define THREADS 256
#define PIXELS_PER_THREAD 4

// The number of each formula in score.py.
#define AMPLITUDES 0
#define POISSON 1
#define INTENSITIES 2
#define EXPANSION 3
#define SHIFTED_POISSON 4

struct Scored {
  real_t loss, slope;
};

// Two sums.
struct Sums {
  double loss, errors;
};

struct Formula {
  int kind;
  real_t dark, shift, gain;

  // (sqrt I - sqrt D)^2; rounding has no slope.
  static __device__ __forceinline__ Scored amplitudes(real_t intensity, real_t data, real_t dark) {
    const real_t amplitude = sqrt(intensity);
    const real_t difference = amplitude - sqrt(data);
    return Scored{difference * difference, intensity <= dark ? (real_t)0 : difference / amplitude};
  }

  // I - D log I.
  __device__ __forceinline__ Scored poisson(real_t intensity, real_t data, bool can_have_counts) const {
    const bool never = dark == 0 ? intensity == 0 : !can_have_counts;
    const bool rounding = !never && intensity <= dark;
    const real_t safe = never ? (real_t)1 : (rounding ? dark : intensity);
    return Scored{intensity - data * log(safe), rounding ? (real_t)0 : (intensity - data) / safe};
  }

  // (D - I)^2 / (2 D) where D > 1/2, else I.
  static __device__ __forceinline__ Scored expansion(real_t intensity, real_t data) {
    if (!(data > (real_t)0.5)) return Scored{intensity, 1};
    const real_t difference = data - intensity;
    return Scored{difference * difference / (2 * data), intensity / data - 1};
  }

  __device__ __forceinline__ Scored operator()(real_t intensity, real_t data, bool can_have_counts) const {
    if (kind == AMPLITUDES) return amplitudes(intensity, data, dark);
    if (kind == POISSON) return poisson(intensity, data, can_have_counts);
    if (kind == EXPANSION) return expansion(intensity, data);
    if (kind == INTENSITIES) {
      const real_t difference = intensity - data;
      return Scored{difference * difference, 2 * difference};
    }
    const real_t raised = data + shift, measured = raised < 0 ? (real_t)0 : raised;
    Scored found;
    if (shift == 0) {
      found = poisson(intensity, measured, can_have_counts);
    } else {
      const real_t modelled = intensity + shift;
      found = Scored{modelled - measured * log(modelled), 1 - measured / modelled};
    }
    return Scored{found.loss / gain, found.slope / gain};
  }
};

// Sum over the threads of a block, in thread 0, always in the same order.
__device__ __forceinline__ Sums block_sum(Sums value, Sums* shared) {
  shared[threadIdx.x] = value;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) {
      shared[threadIdx.x].loss += shared[threadIdx.x + half].loss;
      shared[threadIdx.x].errors += shared[threadIdx.x + half].errors;
    }
  }
  return shared[0];  // of use to thread 0 only
}

// intensity, slope (pattern, pixels). data (rows, pixels): pattern j has row rows[j], or row j if that is null.
// weights (pixels), or with own_weights (pattern, pixels); reachable (pixels); both may be null. parts (block, 2).
// With bounded_slope the slope is that of amplitudes, which is bounded, for counts that are not negative.
extern "C" __global__ void __launch_bounds__(THREADS)
    score(const real_t* intensity, const data_t* data, const int* rows, const real_t* weights, const bool* reachable,
          real_t* slope, double* parts, int pixels, int blocks, int own_weights, int kind, int bounded_slope,
          real_t multiplier, real_t dark, real_t shift, real_t gain, real_t amplitude_dark) {
  __shared__ Sums shared[THREADS];
  const int pattern = blockIdx.x / blocks;
  const int first = blockIdx.x % blocks * (THREADS * PIXELS_PER_THREAD) + threadIdx.x;
  const size_t start = (size_t)pattern * pixels, row = rows ? rows[pattern] : pattern;
  const Formula formula{kind, dark, shift, gain};
  Sums sums{0, 0};
#pragma unroll
  for (int e = 0; e < PIXELS_PER_THREAD; e++) {
    const int pixel = first + THREADS * e;
    if (pixel >= pixels) break;
    const real_t modelled = intensity[start + pixel];
    const real_t measured = (real_t)data[row * pixels + pixel] * multiplier;
    Scored found = formula(modelled, measured, reachable ? reachable[pixel] : true);
    if (bounded_slope)
      found.slope = Formula::amplitudes(modelled, measured < 0 ? (real_t)0 : measured, amplitude_dark).slope;
    const real_t weight = weights ? weights[own_weights ? start + pixel : pixel] : (real_t)1;
    const real_t error = modelled - measured;
    slope[start + pixel] = found.slope * weight;
    sums.loss += (double)(found.loss * weight);
    sums.errors += (double)(error * error * weight);
  }
  sums = block_sum(sums, shared);
  if (threadIdx.x == 0) {
    parts[2 * blockIdx.x] = sums.loss;
    parts[2 * blockIdx.x + 1] = sums.errors;
  }
}

// totals (2) = the sum of parts (n_parts, 2). One block.
extern "C" __global__ void __launch_bounds__(THREADS) add_parts(const double* parts, double* totals, int n_parts) {
  __shared__ Sums shared[THREADS];
  Sums sums{0, 0};
  for (int part = threadIdx.x; part < n_parts; part += THREADS) {
    sums.loss += parts[2 * part];
    sums.errors += parts[2 * part + 1];
  }
  sums = block_sum(sums, shared);
  if (threadIdx.x == 0) {
    totals[0] = sums.loss;
    totals[1] = sums.errors;
  }
}
